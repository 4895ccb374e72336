"""A csv file of the user's own, of any columns."""

from __future__ import annotations

import os
from pathlib import Path

from kinet.data.manifest import BETWEEN_LABELS
from kinet.data.sources.listing import Listed, Listing, checked
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
    listing = Listing({}, several_labels=separator is not None)
    top = os.path.abspath(folder)
    for line, (name, label) in read_columns(path, (path_column, label_column)):
        where = f"{path}, line {line}"
        full = os.path.normpath(os.path.join(top, name))
        if not full.startswith(os.path.join(top, "")):
            raise InputError(f"{where}: {name} lies outside {folder}; give the folder that holds all clips")
        inside = os.path.relpath(full, top).replace(os.sep, "/")
        if separator is not None:
            label = _joined(label, separator, where)
        if os.path.exists(full):
            listing.parts.setdefault("train", []).append((inside, label))
        else:
            listing.missing.append(Listed("train", inside, label))
    return checked(listing, folder)


def _joined(text: str, separator: str, where: str) -> str:
    labels = [label.strip() for label in text.split(separator)]
    for label in labels:
        if not label or BETWEEN_LABELS in label:
            raise InputError(f"{where}: the label {label!r} of {text!r} is empty or holds {BETWEEN_LABELS}; rename it")
    return BETWEEN_LABELS.join(dict.fromkeys(labels))
