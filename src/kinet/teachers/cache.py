"""The teachers' labels of every frame of a clip, worked out once and kept in files.

::

    <folder>/<task>-<teacher's fingerprint[:16]>/<key[:2]>/<key>.npz

One file a clip and task, holding ``masks`` (N, 64, 85) uint8, or ``classes`` and ``scores`` (N, K), in parts of 16
frames (``masks.0``, ``masks.16``, ...) so that three frames of a long clip are read without the others. The key is the
SHA-256 of the clip's name and of what identifies its content, so that neither a changed clip nor a changed
teacher meets old labels. Several processes may fill one folder: files appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from kinet.data.clip import FrameSource, UnreadableClip
from kinet.data.images import IMAGE_SUFFIXES
from kinet.data.manifest import Clip
from kinet.data.video import open_clip
from kinet.errors import InputError
from kinet.progress import clip_progress
from kinet.teachers.plausible import MaskShares, SceneShares
from kinet.teachers.teacher import MASK_SIZE, FrameLabels, Frames, Task, Teacher, TeacherLabels

logger = logging.getLogger(__name__)

CHUNK = 64
"""Frames decoded and labelled at a time, which bounds the memory."""

PART = 16
"""Frames of a part of a file."""

EDGE_BYTES = 65536
"""Bytes read at each end of a video file to tell its content."""

DAMAGE = (OSError, ValueError, KeyError, IndexError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged npz raises (numpy, zipfile and zlib each have their own)."""

Entry = dict[str, npt.NDArray[np.generic]]
"""The arrays of one file, one row a frame."""


class ClipStore(Protocol):
    """Where the frames are that get labelled: the original files, or packs (``kinet.data.pack.Packs``)."""

    def open(self, clip: Clip) -> FrameSource:
        """Raises UnreadableClip."""
        ...

    def key(self, clip: Clip) -> str:
        """What names the clip's label files: another for another name or content. Raises UnreadableClip."""
        ...


class Originals:
    """The clips' own files; a ``ClipStore``."""

    def open(self, clip: Clip) -> FrameSource:
        return open_clip(clip.path)

    def key(self, clip: Clip) -> str:
        return clip_key(clip)


class Clips(Protocol):
    """A manifest, or a list of clips."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Clip]: ...


@dataclass
class FillReport:
    """What ``LabelCache.fill`` did, in clips."""

    labelled: int = 0
    """Clips that teachers were run on."""
    frames: int = 0
    """Their frames."""
    kept: int = 0
    """Clips whose labels were all there."""
    damaged: int = 0
    """Files that were there and could not be used; they were written again."""
    unreadable: list[UnreadableClip] = field(default_factory=list)
    """Clips that could not be decoded; they have no labels."""
    empty_masks: float | None = None
    """Share of all frames without a person (no pixel at 0.5 or above); None without masks."""
    full_masks: float | None = None
    """Share of all frames that are person all over."""
    seconds: float = 0.0


class LabelCache:
    """The label files of one or two teachers in ``folder``, which is made when first written to.

    The frames come from ``store``, by default from the clips' own files.
    """

    def __init__(
        self, folder: Path, human: Teacher | None = None, scene: Teacher | None = None, store: ClipStore | None = None
    ) -> None:
        self.folder = Path(folder)
        self.human = human
        self.scene = scene
        self.store = store if store is not None else Originals()

    @property
    def teachers(self) -> list[Teacher]:
        return [teacher for teacher in (self.human, self.scene) if teacher is not None]

    def entry_path(self, key: str, teacher: Teacher) -> Path:
        """The file of this teacher's labels of the clip with this key of the store's."""
        return self.folder / f"{teacher.task}-{teacher.fingerprint[:16]}" / key[:2] / f"{key}.npz"

    def fill(self, clips: Clips) -> FillReport:
        """Label every frame of the clips that have no labels yet; progress goes to stderr.

        A clip that can't be decoded is put on the report and left out. Labels that are the same in all or nearly all
        frames are logged as a warning, one line a teacher. An interruption loses the clip at work.

        Raises:
            InputError: the folder can't be written, or a teacher's values are not finite.
        """
        report, masks, scenes, start = FillReport(), MaskShares(), SceneShares(), time.monotonic()
        with clip_progress("labelling", len(clips)) as advance:
            for clip in clips:
                try:
                    entries = self._fill_clip(clip, report)
                except UnreadableClip as error:
                    report.unreadable.append(error)
                else:
                    if "human" in entries:
                        masks.add(entries["human"]["masks"])
                    if "scene" in entries:
                        scenes.add(entries["scene"]["classes"])
                advance(1, f"{len(report.unreadable)} unreadable" if report.unreadable else "")
        report.seconds = time.monotonic() - start
        if masks.frames:
            report.empty_masks, report.full_masks = masks.empty / masks.frames, masks.full / masks.frames
        for teacher, shares in ((self.human, masks), (self.scene, scenes)):
            if teacher is not None and (warning := shares.warning(teacher)):
                logger.warning("%s", warning)
        return report

    def _fill_clip(self, clip: Clip, report: FillReport) -> dict[Task, Entry]:
        """The labels of all teachers, read or made."""
        key = self.store.key(clip)
        entries: dict[Task, Entry] = {}
        missing: list[Teacher] = []
        for teacher in self.teachers:
            path = self.entry_path(key, teacher)
            entry = read_entry(path, teacher)
            if entry is not None:
                entries[teacher.task] = entry
            else:
                report.damaged += path.exists()
                missing.append(teacher)
        if missing:
            made = label_clip(self.store.open(clip), missing)
            for teacher in missing:
                write_entry(self.entry_path(key, teacher), made[teacher.task])
            entries |= made
            report.labelled += 1
            report.frames += max(len(array) for entry in made.values() for array in entry.values())
        else:
            report.kept += 1
        return entries


class CachedLabels:
    """Reads a ``LabelCache``; a ``LabelSource`` for DataLoader workers.

    Where a clip's file is missing, damaged or shorter than the clip, the teachers label the frames at hand, which
    gives the same labels. ``computed`` counts these calls, the first is logged as a warning, and the file itself
    is made again by the next ``fill``.
    """

    def __init__(self, cache: LabelCache) -> None:
        self.cache = cache
        self.teachers = TeacherLabels(cache.human, cache.scene)
        self.computed = 0

    def labels(self, clip: Clip, indices: npt.NDArray[np.int64], frames: Frames) -> FrameLabels:
        """See ``LabelSource.labels``. Raises UnreadableClip where the clip is gone."""
        key = self.cache.store.key(clip)
        found: Entry = {}
        for teacher in self.cache.teachers:
            entry = read_entry(self.cache.entry_path(key, teacher), teacher, indices)
            if entry is None:
                self._tell(clip, teacher)
                return self.teachers.labels(clip, indices, frames)
            found |= entry
        return FrameLabels(found.get("masks"), found.get("classes"), found.get("scores"))  # type: ignore[arg-type]

    def _tell(self, clip: Clip, teacher: Teacher) -> None:
        if self.computed == 0:
            logger.warning(
                "%s: no usable %s labels in %s; the teachers label this and other such clips as they come",
                clip.name,
                teacher.task,
                self.cache.folder,
            )
        self.computed += 1


def clip_key(clip: Clip) -> str:
    """SHA-256 over the clip's name and what identifies its content.

    A video file: its size, first and last 64 KiB. A folder of frames: the names and sizes of its images. Copies on
    other machines have the same key, whatever their files' times. Raises UnreadableClip.
    """
    digest = hashlib.sha256(clip.name.encode("utf-8", "surrogateescape") + b"\0")
    try:
        if clip.path.is_dir():
            with os.scandir(clip.path) as files:
                images = [file for file in files if Path(file.name).suffix.lower() in IMAGE_SUFFIXES]
            for name, size in sorted((image.name, image.stat().st_size) for image in images):
                digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        else:
            with clip.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                digest.update(f"{size}\0".encode())
                for offset in (0, max(0, size - EDGE_BYTES)):
                    file.seek(offset)
                    digest.update(file.read(EDGE_BYTES))
    except OSError as error:
        raise UnreadableClip(clip.path, error.strerror or str(error)) from error
    return digest.hexdigest()


def label_clip(source: FrameSource, teachers: list[Teacher]) -> dict[Task, Entry]:
    """What each teacher says of every frame of a clip. Raises UnreadableClip."""
    parts: dict[Task, list[Entry]] = {teacher.task: [] for teacher in teachers}
    for start in range(0, len(source), CHUNK):
        frames = source.read(range(start, min(start + CHUNK, len(source))))
        for teacher in teachers:
            parts[teacher.task].append(label_entry(teacher, frames))
    return {
        task: {name: np.concatenate([part[name] for part in chunks]) for name in chunks[0]}
        for task, chunks in parts.items()
    }


def label_entry(teacher: Teacher, frames: Frames) -> Entry:
    labels = teacher.label_frames(frames)
    if isinstance(labels, tuple):
        return {"classes": labels[0], "scores": labels[1]}
    return {"masks": labels}


def read_entry(path: Path, teacher: Teacher, rows: npt.NDArray[np.int64] | None = None) -> Entry | None:
    """The labels in this file, of the frames ``rows`` (n,) or of all.

    None where the file is missing, damaged (checksums are read), of another form, or has no such frames.
    """
    try:
        with np.load(path, allow_pickle=False) as parts:
            names = {part.partition(".")[0] for part in parts.files}
            entry = {name: read_rows(parts, name, rows) for name in names}
    except DAMAGE:
        return None
    return entry if fits(entry, teacher) else None


def read_rows(parts: NpzFile, name: str, rows: npt.NDArray[np.int64] | None) -> npt.NDArray[np.generic]:
    """An array's rows, from no more parts than they lie in. Raises what ``DAMAGE`` lists."""
    starts = range(0, PART * sum(part.startswith(f"{name}.") for part in parts.files), PART)
    if rows is None:
        return np.concatenate([parts[f"{name}.{start}"] for start in starts])
    read = {start: parts[f"{name}.{start}"] for start in {int(row) // PART * PART for row in rows}}
    return np.stack([read[row // PART * PART][row % PART] for row in rows.tolist()])


def in_parts(entry: Entry) -> Entry:
    """Parts of ``PART`` rows by ``<name>.<first row>``."""
    return {
        f"{name}.{start}": array[start : start + PART]
        for name, array in entry.items()
        for start in range(0, len(array), PART)
    }


def fits(entry: Entry, teacher: Teacher) -> bool:
    """Whether the arrays are those of this task, with one row a frame."""
    if teacher.task == "human":
        return entry.keys() == {"masks"} and is_array(entry["masks"], np.uint8, MASK_SIZE)
    if entry.keys() != {"classes", "scores"} or entry["classes"].shape != entry["scores"].shape:
        return False
    kept = entry["classes"].shape[1:]
    return is_array(entry["classes"], np.int32, kept) and is_array(entry["scores"], np.float16, kept)


def is_array(array: npt.NDArray[np.generic], dtype: type[np.generic], row: tuple[int, ...]) -> bool:
    return array.dtype == dtype and array.ndim == len(row) + 1 and array.shape[1:] == row and len(array) > 0


def write_entry(path: Path, entry: Entry) -> None:
    """Write beside ``path`` and move into place. Raises InputError where that fails."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                np.savez_compressed(file, **in_parts(entry))  # type: ignore[arg-type]
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot write labels: {error.strerror}") from error
