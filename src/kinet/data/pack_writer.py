"""Making packs: clips are encoded in worker processes and written, in the manifest's order, into tar files.

A worker writes a clip's frames into a file under ``parts``; this process copies them into the shard at work. A
shard appears when it is full, by a rename, and then enters the index; what was interrupted is encoded again. The
shards' bytes depend on the clips and the settings alone, not on the number of workers.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from rich.console import Console

from kinet.data.guarded import Failure, guarded_map
from kinet.data.manifest import Clip, Manifest
from kinet.data.pack import SHARDS, check_sizes, shard_path
from kinet.data.pack_codec import SUFFIX, EncodedClip, PackSettings, Task, check_settings, encode_task
from kinet.data.pack_index import FILE, PLACE, ClipRow, PackIndex, ShardRow
from kinet.errors import InputError
from kinet.progress import clip_progress
from kinet.training.run_folder import write_skipped

PARTS = "parts"
LOCK = "lock"
TIMEOUT = 3600.0
"""Seconds that encoding a clip may take."""
MEMORY = 4 * 2**30
"""Bytes that it may take (Linux only)."""

console = Console(stderr=True)


@dataclass
class PackReport:
    """What ``pack_clips`` did."""

    clips: int = 0
    """Clips of the manifest that are in the pack now."""
    packed: int = 0
    """Those that were not there before."""
    skipped: int = 0
    """Clips of the manifest that could not be read."""
    frames: int = 0
    """Frames of the whole pack."""
    bytes: int = 0
    """Bytes of the whole pack's shards."""
    seconds: float = 0.0


def pack_clips(clips: Manifest, folder: Path, settings: PackSettings, *, shard_bytes: int, workers: int) -> PackReport:
    """Pack the clips that ``folder`` has not yet, be it from an interrupted run or from another manifest.

    Clips that could not be read are listed in skipped.csv, and tried again by the next call. Progress goes to
    stderr.

    Raises:
        InputError: wrong settings or others than the pack's, a damaged pack, another process at work in it, a
            folder that can't be written, a clip that was packed from another file, or no clip that can be read.
    """
    check_settings(settings)
    start, report = time.monotonic(), PackReport()
    try:
        with locked(folder):
            index = open_index(folder, settings)
            drop_missing_shards(folder, index)
            pending = array("L", (number for number, clip in enumerate(clips) if not is_packed(index, clip)))
            report.clips = len(clips) - len(pending)
            pack_pending(clips, pending, ShardWriter(folder, index, settings, shard_bytes), workers, report)
            report.frames = index.counts()[1]
            report.bytes = sum(shard.bytes for shard in index.shards())
            write_skipped(folder / "skipped.csv", list(index.unreadable()))
            index.close()
    except OSError as error:  # the clips' own errors come as UnreadableClip
        raise InputError(f"{error.filename or folder}: cannot be written ({error.strerror})") from error
    if not report.clips:
        raise InputError(f"{clips.source}: no clip could be read; {folder / 'skipped.csv'} says why")
    report.seconds = round(time.monotonic() - start, 1)
    return report


def pack_pending(clips: Manifest, pending: array[int], writer: ShardWriter, workers: int, report: PackReport) -> None:
    """Encode and write the clips with these numbers."""
    parts = writer.folder / PARTS
    tasks = (Task(number, clips[number].path, writer.settings, parts / str(number)) for number in pending)
    with ExitStack() as stack:
        stack.enter_context(fresh_folder(parts))
        advance = stack.enter_context(clip_progress("packing", len(clips), report.clips))
        stack.enter_context(writer)
        results = guarded_map(
            encode_task,
            tasks,
            workers=max(1, min(workers, len(pending))),
            timeout=TIMEOUT,
            memory=MEMORY,
            in_order=True,
        )
        for task, encoded in results:
            clip = clips[task.number]
            if isinstance(encoded, Failure):
                report.skipped += 1
                writer.index.add_unreadable(clip.name, encoded.cause)
                console.print(f"skipped {clip.name}: {encoded.cause}", style="yellow", highlight=False, markup=False)
            else:
                writer.add(clip, clips.classes[clip.label], encoded, task.part)
                report.packed += 1
                report.clips += 1
            advance(1, f"{report.skipped} unreadable" if report.skipped else "")


class ShardWriter:
    """Writes clips into shards of about ``shard_bytes``; a context, whose end finishes the last one.

    Where it ends by an exception, the shard at work is dropped.
    """

    def __init__(self, folder: Path, index: PackIndex, settings: PackSettings, shard_bytes: int) -> None:
        self.folder = folder
        self.index = index
        self.settings = settings
        self.shard_bytes = shard_bytes
        clip, shard = index.last_numbers()
        self._next_clip = clip + 1
        self._shard = shard + 1
        self._rows: list[ClipRow] = []
        self._file: BinaryIO | None = None
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> ShardWriter:
        (self.folder / SHARDS).mkdir(exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        elif self._file is not None:
            self._file.close()
            self._temporary.unlink()

    @property
    def _temporary(self) -> Path:
        return shard_path(self.folder, self._shard).with_suffix(".tmp")

    def add(self, clip: Clip, label: str, encoded: EncodedClip, part: Path) -> None:
        """Write a clip whose frames lie in ``part``, which is removed; one that is there already is left out."""
        with part.open("rb") as frames:
            if not any(row.name == clip.name for row in self._rows) and not is_packed(self.index, clip):
                self._add(clip, label, encoded, frames)
        part.unlink()
        if self._file is not None and self._file.tell() >= self.shard_bytes:
            self.finish()

    def _add(self, clip: Clip, label: str, encoded: EncodedClip, frames: BinaryIO) -> None:
        key, count = f"{self._next_clip:08d}", len(encoded.sizes)
        facts = {"name": clip.name, "label": label, "frames": count, "fps": encoded.fps}
        facts |= {"height": encoded.height, "width": encoded.width}
        text = json.dumps(facts).encode()
        self._add_member(f"{key}.json", len(text), io.BytesIO(text))
        places = np.empty(count, PLACE)
        places["size"] = encoded.sizes
        if self.settings.format == "jpeg":
            for number, size in enumerate(encoded.sizes.tolist()):
                name = f"{key}.{number:06d}.{SUFFIX['jpeg']}"
                places[number]["offset"] = self._add_member(name, size, frames)
        else:
            first = self._add_member(f"{key}.{SUFFIX['h264']}", int(encoded.sizes.sum()), frames)
            places["offset"] = first + encoded.sizes.cumsum() - encoded.sizes
        size, digest = source_size(clip), encoded.digest
        row = ClipRow(self._next_clip, clip.name, self._shard, size, encoded.height, encoded.width, digest, places)
        self._rows.append(row)
        self._next_clip += 1

    def _add_member(self, name: str, size: int, data: BinaryIO) -> int:
        """Append the next ``size`` bytes of ``data``; returns where they begin in the shard."""
        if self._tar is None:
            self._file = self._temporary.open("wb")
            self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        assert self._file is not None
        info = tarfile.TarInfo(name)
        info.size = size
        self._tar.addfile(info, data)
        return self._file.tell() - -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE

    def finish(self) -> None:
        """Put the shard at work into place, and then into the index."""
        if self._tar is None or self._file is None:
            return
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        path = shard_path(self.folder, self._shard)
        with self._temporary.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.replace(self._temporary, path)
        sync_folder(path.parent)
        self.index.add_shard(ShardRow(self._shard, size, sha256), self._rows)
        self._file, self._tar, self._rows = None, None, []
        self._shard += 1


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from packing into ``folder``, which is made. The lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another process packs into this folder; wait for its end") from error
        yield


def open_index(folder: Path, settings: PackSettings) -> PackIndex:
    """The folder's index, a new one where there is none. Raises InputError where its settings are others."""
    if not (folder / FILE).exists():
        others = {file.name for file in folder.iterdir()} - {LOCK, PARTS, SHARDS, f"{FILE}.tmp"}
        if others:
            raise InputError(f"{folder}: holds other files ({min(others)}); choose a new folder for the pack")
        return PackIndex.create(folder, settings)
    index = PackIndex(folder, write=True)
    before, now = asdict(index.settings()), asdict(settings)
    for name, value in before.items():
        if value != now[name]:
            option = "--" + name.replace("_", "-")
            raise InputError(f"{folder}: was packed with {option} {value}, not {now[name]}; choose a new folder")
    return index


def drop_missing_shards(folder: Path, index: PackIndex) -> None:
    """Forget the clips of shards that are gone, so that they are packed anew; other damage is an InputError."""
    for shard in index.shards():
        path = shard_path(folder, shard.number)
        if not path.exists():
            clips = index.drop_shard(shard.number)
            console.print(f"{path} is gone: its {clips} clips are packed anew", style="yellow", highlight=False)
    if index.shards():
        check_sizes(folder, index)


def is_packed(index: PackIndex, clip: Clip) -> bool:
    """Whether a clip of this name is packed. Raises InputError where its file is of another size now."""
    packed = index.source_bytes(clip.name)
    if packed is None:
        return False
    size = source_size(clip)
    if size not in (packed, 0):
        raise InputError(
            f"{clip.path}: has {size} bytes, but the pack's clip of this name was made from a file of {packed}; "
            "choose a new folder for the pack"
        )
    return True


def source_size(clip: Clip) -> int:
    """Bytes of the clip's file; 0 of a folder of images, and where it is gone."""
    return clip.path.stat().st_size if clip.path.is_file() else 0


@contextmanager
def fresh_folder(folder: Path) -> Iterator[None]:
    """An empty folder, removed afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make sure that a rename in it outlives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
