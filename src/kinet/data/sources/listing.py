"""What a data set's official lists name, and what of it lies on this disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kinet.data.groups import GroupRule, Row, hold_out
from kinet.data.images import IMAGE_SUFFIXES
from kinet.data.manifest import BETWEEN_LABELS, write_manifest, write_table
from kinet.data.video import VIDEO_SUFFIXES
from kinet.errors import InputError

PARTS = ("train", "val", "test")


class Listed(NamedTuple):
    """A clip that a list names."""

    part: str
    """train, val or test."""
    name: str
    """Its file's name, or its path in the data set."""
    label: str


@dataclass
class Listing:
    """The clips of a data set."""

    parts: dict[str, list[Row]]
    """Rows (path, label) of those that are there: train, val, test, as far as the lists go."""
    missing: list[Listed] | None = None
    """Those that are listed only; None where no list says what should be there."""
    rule: GroupRule | None = None
    """Finds a clip's source video, where the data set's names tell it."""
    several_labels: bool = False


class ClipFiles:
    """The clips anywhere below a folder by name: video files, and folders of images.

    A name counts without the ending of a video file, so that a list of .avi files finds those made .mp4.
    Raises InputError where the folder cannot be listed or holds no clip.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: dict[str, list[str]] = {}
        for path in sorted(_walk(folder, "")):
            self.paths.setdefault(stem(path), []).append(path)
        if not self.paths:
            raise InputError(f"{folder}: holds no video file and no folder of images; give the data set's folder")

    def find(self, name: str, label: str) -> str | None:
        """The path of the clip ``name``, relative to the folder; of several, one in a folder of its class."""
        paths = self.paths.get(stem(name), [])
        in_class = (path for path in paths if _plain(path.rpartition("/")[0].rpartition("/")[2]) == _plain(label))
        return next(in_class, paths[0] if paths else None)


def stem(path: str) -> str:
    """The last part of a path, without the ending of a video file."""
    name = path.rpartition("/")[2]
    base, suffix = os.path.splitext(name)
    return base if suffix.lower() in VIDEO_SUFFIXES else name


def find_listed(listed: Iterable[Listed], folder: Path, rule: GroupRule | None = None) -> Listing:
    """Look for the listed clips below ``folder``.

    Raises InputError where none are listed, or none is there.
    """
    listed = list(listed)
    files = ClipFiles(folder)
    return part_listing(((clip, files.find(clip.name, clip.label)) for clip in listed), folder, rule=rule)


def part_listing(
    found: Iterable[tuple[Listed, str | None]],
    folder: Path,
    *,
    rule: GroupRule | None = None,
    several_labels: bool = False,
) -> Listing:
    """The listing of clips and their paths, which are None where they are missing.

    Raises InputError where none are listed, or none of the first part (for training, if there are such) is there.
    """
    rows: dict[str, list[Row]] = {}
    missing: list[Listed] = []
    for clip, path in found:
        there = rows.setdefault(clip.part, [])
        if path is None:
            missing.append(clip)
        else:
            there.append((path, clip.label))
    first = next((part for part in PARTS if part in rows), None)
    if first is None:
        raise InputError(f"{folder}: its lists name no clip")
    if not rows[first]:
        names = [clip.name for clip in missing if clip.part == first]
        raise InputError(f"{folder}: none of {len(names)} clips listed for {first} is there, such as {names[0]}")
    parts = {part: rows[part] for part in PARTS if rows.get(part)}
    return Listing(parts, missing, rule, several_labels)


def write_listing(
    listing: Listing, out: Path, *, share: float | None = None, rule: GroupRule | None = None
) -> dict[str, Any]:
    """Write the manifests ``OUT.csv``, ``OUT_val.csv`` and ``OUT_test.csv`` of those parts that there are; returns
    their paths and counts.

    The first part is ``OUT.csv``. ``share`` of the training clips is held out to be ``OUT_val.csv``, by ``rule`` or
    the data set's own. What is missing goes into ``OUT_missing.csv``, with counts in ``OUT_missing_by_class.csv``.
    Raises InputError.
    """
    parts = dict(listing.parts)
    several = listing.several_labels
    if share is not None:
        if "val" in parts or "train" not in parts:
            raise InputError("--hold-out: needs training clips, and lists without validation clips of their own")
        parts["train"], parts["val"] = hold_out(
            parts["train"], share, rule=rule or listing.rule, several_labels=several
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    classes = {label for rows in parts.values() for _, label in rows}
    if several:
        classes = {label for text in classes for label in text.split(BETWEEN_LABELS)}
    result: dict[str, Any] = {"classes": len(classes)}
    for part in sorted(parts, key=PARTS.index):
        path = out if "manifest" not in result else out.with_name(f"{out.stem}_{part}.csv")
        write_manifest(path, parts[part], several_labels=several)
        prefix = "" if path == out else f"{part}_"
        result |= {part if prefix else "manifest": str(path), f"{prefix}clips": len(parts[part])}
    return result | write_missing(listing, out)


def write_missing(listing: Listing, out: Path) -> dict[str, Any]:
    """Write what is missing, even if that is nothing; returns the files' paths and the count."""
    if listing.missing is None:
        return {}
    clips, classes = (out.with_name(f"{out.stem}_{name}.csv") for name in ("missing", "missing_by_class"))
    gone = Counter(clip.label for clip in listing.missing)
    there = Counter(label for rows in listing.parts.values() for _, label in rows)
    write_table(clips, Listed._fields, listing.missing)
    counts = [(label, there[label] + count, count) for label, count in gone.most_common()]
    write_table(classes, ("class", "listed", "missing"), counts)
    return {"missing": len(listing.missing), "missing_clips": str(clips), "missing_by_class": str(classes)}


def find_lists(pattern: str, folder: Path, given: Path | None, usual: Sequence[str]) -> list[Path]:
    """The official lists of a name such as ``*.txt``, sorted: in ``given``, else in ``folder``, else in a folder of a
    ``usual`` name in it or beside it.

    Raises InputError where there are none.
    """
    places = (
        [given] if given is not None else [folder, *(near / name for near in (folder, folder.parent) for name in usual)]
    )
    found = next((files for place in places if (files := sorted(place.glob(pattern)))), [])
    if not found:
        raise InputError(f"{places[0]}: no {pattern}; name the folder of the official lists with --lists")
    return found


def _walk(root: Path, below: str) -> Iterator[str]:
    """Paths of the clips below ``root/below``, relative to ``root``, with / between their parts.

    A folder of images is one if it holds neither videos nor folders.
    """
    folders: list[str] = []
    videos: list[str] = []
    images = False
    try:
        with os.scandir(root / below) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                suffix = os.path.splitext(entry.name)[1].lower()
                if suffix in IMAGE_SUFFIXES:
                    images = True
                elif entry.is_dir():
                    folders.append(entry.name)
                elif suffix in VIDEO_SUFFIXES:
                    videos.append(entry.name)
    except OSError as error:
        raise InputError(f"{error.filename or root}: cannot be listed ({error.strerror})") from error
    inside = f"{below}/" if below else ""
    yield from (inside + name for name in videos)
    for name in folders:
        yield from _walk(root, inside + name)
    if images and below and not videos and not folders:
        yield below


def _plain(name: str) -> str:
    return name.replace("_", " ").lower()
