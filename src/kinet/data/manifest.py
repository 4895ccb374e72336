"""Manifests: csv files that name a data set's clips and their classes.

A manifest has a header with the columns ``path`` and ``label``; others are ignored. ``label`` is the class's
name. ``path`` is relative to a root, by default the manifest's own folder.
"""

from __future__ import annotations

import csv
import difflib
import os
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinet.data.video import VIDEO_SUFFIXES
from kinet.errors import InputError

NOT_IN_NAMES = frozenset("\0\r\n")


@dataclass(frozen=True, slots=True)
class Clip:
    """One row: where the clip is, its class's place in ``Manifest.classes``, and its key everywhere."""

    path: Path
    label: int
    name: str
    """The path as the manifest writes it."""


class Manifest:
    """The clips of a manifest in its order, made on access.

    The paths are kept as one block of bytes: 650,000 clips take some 40 MB, and worker processes that were
    forked from this one never copy it.
    """

    def __init__(self, source: Path, root: Path, classes: Sequence[str], rows: Iterable[tuple[str, int]]) -> None:
        self.source = source
        self.root = root
        self.classes = tuple(classes)
        names = bytearray()
        self._ends = array("Q", [0])
        self._labels = array("L")
        for name, label in rows:
            names += name.encode()
            self._ends.append(len(names))
            self._labels.append(label)
        self._names = bytes(names)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Clip:
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)} in {self.source}")
        name = self._names[self._ends[index] : self._ends[index + 1]].decode()
        return Clip(Path(self.root, name), self._labels[index], name)

    def __iter__(self) -> Iterator[Clip]:
        return (self[index] for index in range(len(self)))


def read_manifest(path: Path, *, root: Path | None = None, classes: Sequence[str] | None = None) -> Manifest:
    """Read a manifest: UTF-8 csv, with or without a byte order mark; blank lines are skipped.

    ``root``: what paths are relative to; an absolute path must then lie inside. None: the manifest's folder,
    and absolute paths may lie anywhere. ``..`` in a path is refused. No clip is looked at.
    ``classes``: the classes in order (a trained network's). None: the labels in the file, sorted.

    Raises InputError, with the line's number, on a missing file or column, no rows, a row that is not as the
    header says, an empty path or label, a path outside the root and a label that ``classes`` does not hold.
    """
    places = {name: place for place, name in enumerate(classes or ())}
    rows: list[tuple[str, int]] = []
    for line, (name, label) in _read_columns(path, ("path", "label")):
        _check_inside(name, root, f"{path}, line {line}")
        place = places.get(label)
        if place is None:
            if classes is not None:
                raise InputError(f"{path}, line {line}: class {label!r} is unknown; {_nearest(label, classes)}")
            place = places[label] = len(places)
        rows.append((name, place))
    if not rows:
        raise InputError(f"{path}: no clips; expected a line path,label for each below the header")
    if classes is None:
        classes = sorted(places)
        order = {places[name]: place for place, name in enumerate(classes)}
        rows = [(name, order[place]) for name, place in rows]
    return Manifest(path, root if root is not None else path.parent, classes, rows)


def write_manifest(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write rows (path, label) as a manifest that ``read_manifest`` reads back as they are.

    Raises InputError where the file cannot be written, and on a name that csv or UTF-8 cannot hold.
    """
    rows = list(rows)
    for name in (value for row in rows for value in row):
        if not name or name != name.strip() or not NOT_IN_NAMES.isdisjoint(name) or not _is_utf8(name):
            raise InputError(f"{path}: {name!r} cannot be a path or a label in a csv file; rename it")
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("path", "label"))
            writer.writerows(rows)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def hold_out(rows: Sequence[tuple[str, str]], share: float) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Part rows (path, label) into those to train on and, of every class, a ``share`` to validate on.

    The same rows give the same parts. At least one clip of a class stays to train on. Clips cut from one source
    video may come to lie on both sides: part such sets by hand.
    Raises InputError where ``share`` is not between 0 and 1, or nothing would be held out.
    """
    if not 0 < share < 1:
        raise InputError(f"--hold-out {share}: give a share between 0 and 1, for example 0.2")
    by_class: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        by_class.setdefault(row[1], []).append(row)
    rng = random.Random(0)
    held: set[tuple[str, str]] = set()
    for label in sorted(by_class):
        count = min(round(share * len(by_class[label])), len(by_class[label]) - 1)
        held.update(rng.sample(by_class[label], count))
    if not held:
        raise InputError(f"--hold-out {share}: too few clips a class to hold one out; give a larger share")
    return [row for row in rows if row not in held], [row for row in rows if row in held]


def index_folder(folder: Path, keep: Path | None = None) -> list[tuple[str, str]]:
    """Rows (path, label) of the video files ``folder/<class>/<video>``, sorted; paths relative to ``folder``.

    ``keep``: a csv with the columns ``class,video_name`` (name with or without its extension): the clips to
    keep, in its order. A manifest written elsewhere than into ``folder`` needs ``folder`` as its root.
    Raises InputError where there are none, and where a listed one is missing.
    """
    return _index(folder, keep, "video files", _is_video)


def index_frames(folder: Path, keep: Path | None = None) -> list[tuple[str, str]]:
    """As ``index_folder``, of clips that are folders of images: ``folder/<class>/<clip>/<image>``."""
    return _index(folder, keep, "folders of images", lambda entry: entry.is_dir())


def _index(
    folder: Path, keep: Path | None, kind: str, is_clip: Callable[[os.DirEntry[str]], bool]
) -> list[tuple[str, str]]:
    try:
        found = [
            (label, name)
            for label in _names(folder, lambda entry: entry.is_dir())
            for name in _names(folder / label, is_clip)
        ]
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be listed ({error.strerror})") from error
    if not found:
        raise InputError(f"{folder}: no {kind} found; expected {folder}/<class>/<clip>")
    if keep is not None:
        found = _keep_listed(found, keep, folder)
    return [(f"{label}/{name}", label) for label, name in found]


def _keep_listed(found: list[tuple[str, str]], keep: Path, folder: Path) -> list[tuple[str, str]]:
    names: dict[tuple[str, str], list[str]] = {}
    for label, name in found:
        for spelling in {name, os.path.splitext(name)[0]}:
            names.setdefault((label, spelling), []).append(name)
    kept: list[tuple[str, str]] = []
    missing: list[str] = []
    for line, (label, name) in _read_columns(keep, ("class", "video_name")):
        matches = names.get((label, name), [])
        if name in matches:
            matches = [name]
        if len(matches) > 1:
            raise InputError(
                f"{keep}, line {line}: {label}/{name} may be any of {', '.join(matches)}; add the extension"
            )
        if matches:
            kept.append((label, matches[0]))
        else:
            missing.append(f"{label}/{name} (line {line})")
    if missing:
        raise InputError(
            f"{keep}: {len(missing)} of {len(missing) + len(kept)} listed clips are not in {folder}; "
            f"the first is {missing[0]}"
        )
    if not kept:
        raise InputError(f"{keep}: no clips listed; expected a line class,video_name for each below the header")
    return kept


def _names(folder: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and wanted(entry))


def _is_video(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in VIDEO_SUFFIXES and entry.is_file()


def _read_columns(path: Path, columns: tuple[str, str]) -> Iterator[tuple[int, tuple[str, str]]]:
    """Line numbers and the two columns' values, never empty; spaces around them are dropped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            for name in columns:
                if name not in header:
                    raise InputError(f"{path}: the first line must name {','.join(columns)}; {name} is missing")
            first, second = (header.index(name) for name in columns)
            for row in reader:
                if not "".join(row).strip() and len(row) < 2:
                    continue
                if len(row) != len(header):
                    raise InputError(
                        f"{path}, line {reader.line_num}: {len(row)} values under {len(header)} columns; "
                        "quote a value that holds a comma"
                    )
                values = row[first].strip(), row[second].strip()
                for name, value in zip(columns, values, strict=True):
                    if not value:
                        raise InputError(f"{path}, line {reader.line_num}: the {name} is empty")
                    if not NOT_IN_NAMES.isdisjoint(value):
                        raise InputError(f"{path}, line {reader.line_num}: the {name} holds a line break or a NUL")
                yield reader.line_num, values
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        lines = path.read_bytes().splitlines()
        line = next(number for number, text in enumerate(lines, 1) if not _is_utf8(text))
        raise InputError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not csv ({error})") from error


def _check_inside(name: str, root: Path | None, where: str) -> None:
    if ".." in name and ".." in name.replace("\\", "/").split("/"):
        raise InputError(f"{where}: {name} climbs with '..'; write paths that stay inside the root")
    if root is not None and os.path.isabs(name) and not Path(name).is_relative_to(os.path.abspath(root)):
        raise InputError(f"{where}: {name} lies outside the root {root}")


def _nearest(label: str, classes: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(label, classes, n=1, cutoff=0)
    return f"the nearest is {nearest[0]!r}" if nearest else "there are no classes"


def _is_utf8(text: str | bytes) -> bool:
    try:
        _ = text.encode() if isinstance(text, str) else text.decode()
    except UnicodeError:
        return False
    return True
