"""Manifests: csv files that name a data set's clips and their classes.

A manifest has a header with the columns ``path`` and ``label``; others are ignored. ``label`` is the class's
name. ``path`` is relative to a root, by default the manifest's own folder. Where clips have several labels, the
column ``labels`` stands in place of ``label`` and holds their names with ``|`` between them.
"""

from __future__ import annotations

import csv
import difflib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinet.data.table import BREAKS, is_utf8, read_columns, read_header
from kinet.errors import InputError

BETWEEN_LABELS = "|"


@dataclass(frozen=True, slots=True)
class Clip:
    """One row: where the clip is, its class's place in ``Manifest.classes``, and its key everywhere."""

    path: Path
    label: int
    name: str
    """The path as the manifest writes it."""
    also: tuple[int, ...] = ()
    """Its further classes, where clips have several labels."""


class Manifest:
    """The clips of a manifest in its order, made on access.

    The paths are kept as one block of bytes: 650,000 clips take some 40 MB, and worker processes that were
    forked from this one never copy it. ``also``: further classes of each clip, where clips have several labels.
    """

    def __init__(
        self,
        source: Path,
        root: Path,
        classes: Sequence[str],
        rows: Iterable[tuple[str, int]],
        also: Iterable[Sequence[int]] = (),
    ) -> None:
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
        self._also = array("L")
        self._also_ends = array("Q", [0])
        for further in also:
            self._also.extend(further)
            self._also_ends.append(len(self._also))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Clip:
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)} in {self.source}")
        name = self.name(index)
        also = tuple(self._also[self._also_ends[index] : self._also_ends[index + 1]]) if self._also else ()
        return Clip(Path(self.root, name), self._labels[index], name, also)

    def name(self, index: int) -> str:
        """``self[index].name``, for less: many names without their clips."""
        return self._names[self._ends[index] : self._ends[index + 1]].decode()

    def __iter__(self) -> Iterator[Clip]:
        return (self[index] for index in range(len(self)))


def read_manifest(
    path: Path, *, root: Path | None = None, classes: Sequence[str] | None = None, several_labels: bool = False
) -> Manifest:
    """Read a manifest: UTF-8 csv, with or without a byte order mark; blank lines are skipped.

    ``root``: what paths are relative to; an absolute path must then lie inside. None: the manifest's folder,
    and absolute paths may lie anywhere. ``..`` in a path is refused. No clip is looked at.
    ``classes``: the classes in order (a trained network's). None: the labels in the file, sorted.
    ``several_labels``: the caller can deal with clips that have several; otherwise they are refused.

    Raises InputError, with the line's number, on a missing file or column, no rows, a row that is not as the
    header says, an empty path or label, a path outside the root and a label that ``classes`` does not hold.
    """
    header = read_header(path)
    several = "labels" in header and "label" not in header
    if several and not several_labels:
        raise InputError(
            f"{path}: its clips have several labels each (the column labels), but training and testing take one; "
            "write one into a column label"
        )
    places = {name: place for place, name in enumerate(classes or ())}
    names: list[str] = []
    firsts = array("L")
    also: list[list[int]] = []
    for line, (name, text) in read_columns(path, ("path", "labels" if several else "label")):
        if ".." in name or root is not None:
            _check_inside(name, root, path, line)
        labels = split_labels(text, f"{path}, line {line}") if several else (text,)
        for label in labels:
            if label not in places:
                if classes is not None:
                    raise InputError(f"{path}, line {line}: class {label!r} is unknown; {nearest(label, classes)}")
                places[label] = len(places)
        names.append(name)
        firsts.append(places[labels[0]])
        if several:
            also.append([places[label] for label in labels[1:]])
    if not names:
        raise InputError(f"{path}: no clips; expected a line path,label for each below the header")
    if classes is None:
        classes = sorted(places)
        order = {places[label]: place for place, label in enumerate(classes)}
        firsts = array("L", (order[place] for place in firsts))
        also = [[order[place] for place in further] for further in also]
    return Manifest(path, root or path.parent, classes, zip(names, firsts, strict=True), also)


def split_labels(text: str, where: str) -> tuple[str, ...]:
    """The names in a value of the column ``labels``, each once; raises InputError where one is empty."""
    labels = [label.strip() for label in text.split(BETWEEN_LABELS)]
    if not all(labels):
        raise InputError(f"{where}: {text!r} holds an empty label; write NAME{BETWEEN_LABELS}NAME")
    return tuple(dict.fromkeys(labels))


def write_manifest(path: Path, rows: Iterable[tuple[str, str]], *, several_labels: bool = False) -> None:
    """Write rows (path, label) as a manifest that ``read_manifest`` reads back as they are.

    ``several_labels``: a row's label is the clip's labels with ``|`` between them.
    Raises InputError where the file cannot be written, and on a name that csv or UTF-8 cannot hold.
    """
    rows = list(rows)
    for name in (value for row in rows for value in row):
        if not name or name != name.strip() or not BREAKS.isdisjoint(name) or not is_utf8(name):
            raise InputError(f"{path}: {name!r} cannot be a path or a label in a csv file; rename it")
    write_table(path, ("path", "labels" if several_labels else "label"), rows)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A csv file; raises InputError where it cannot be written."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def _check_inside(name: str, root: Path | None, path: Path, line: int) -> None:
    if ".." in name and ".." in name.replace("\\", "/").split("/"):
        raise InputError(f"{path}, line {line}: {name} climbs with '..'; write paths that stay inside the root")
    if root is not None and os.path.isabs(name) and not Path(name).is_relative_to(os.path.abspath(root)):
        raise InputError(f"{path}, line {line}: {name} lies outside the root {root}")


def nearest(label: str, classes: Iterable[str]) -> str:
    """The half of a message that names the class most like a wrong label."""
    found = difflib.get_close_matches(label, list(classes), n=1, cutoff=0)
    return f"the nearest is {found[0]!r}" if found else "there are no classes"
