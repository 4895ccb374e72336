"""A csv file of the user's own, of any columns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kinet.data.manifest import BETWEEN_LABELS
from kinet.data.sources.listing import Listed, Listing, part_listing
from kinet.data.table import read_columns
from kinet.errors import InputError


def own_csv(
    folder: Path, path: Path, *, path_column: str = "path", label_column: str = "label", separator: str | None = None
) -> Listing:
    """The clips of a csv file whose paths are relative to ``folder``, or absolute and inside it.

    ``separator``: what stands between the labels of a clip; None where each has one.
    Raises InputError, with the line's number, on what ``read_columns`` refuses, a path outside the folder, an empty
    label and one that holds ``|`` where a clip has several.
    """
    if separator == "":
        raise InputError("--separator: is empty; give what stands between the labels")
    return part_listing(
        _read(folder, path, (path_column, label_column), separator), folder, several_labels=separator is not None
    )


def _read(
    folder: Path, path: Path, columns: tuple[str, str], separator: str | None
) -> Iterator[tuple[Listed, str | None]]:
    top = os.path.abspath(folder)
    for line, (name, label) in read_columns(path, columns):
        where = f"{path}, line {line}"
        full = os.path.normpath(os.path.join(top, name))
        if not full.startswith(os.path.join(top, "")):
            raise InputError(f"{where}: {name} lies outside {folder}; give the folder that holds all clips")
        inside = os.path.relpath(full, top).replace(os.sep, "/")
        clip = Listed("train", inside, label if separator is None else _joined(label, separator, where))
        yield clip, inside if os.path.exists(full) else None


def _joined(text: str, separator: str, where: str) -> str:
    labels = [label.strip() for label in text.split(separator)]
    for label in labels:
        if not label or BETWEEN_LABELS in label:
            raise InputError(f"{where}: the label {label!r} of {text!r} is empty or holds {BETWEEN_LABELS}; rename it")
    return BETWEEN_LABELS.join(dict.fromkeys(labels))
