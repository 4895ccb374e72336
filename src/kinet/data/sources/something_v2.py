"""Something-Something v2 (Goyal et al., ICCV 2017): json lists, and videos ID.webm. The lists::

    labels.json        {"Holding something": "42", ...}
    train.json         [{"id": "78687", "label": "holding a cup", "template": "Holding [something]", ...}, ...]
    validation.json    the same
    test.json          [{"id": "1420"}, ...]
    test-answers.csv   1420;Holding something

Older releases put something-something-v2- before each name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from kinet.data.manifest import nearest
from kinet.data.sources.listing import Listed, Listing, find_listed, find_lists
from kinet.data.table import read_lines, read_text
from kinet.errors import InputError

USUAL_LISTS = ("labels", "annotations")


def something_v2(folder: Path, lists: Path | None = None) -> Listing:
    """The training and validation clips, and the test clips where their answers are there, wherever below ``folder``.

    ``lists``: the folder of the json files; by default ``folder``, or labels or annotations in or beside it.
    Raises InputError.
    """
    labels_file = find_lists("*labels.json", folder, lists, USUAL_LISTS)[0]
    prefix = labels_file.name.removesuffix("labels.json")
    labels = read_labels(labels_file)
    listed = [
        clip
        for part, name in (("train", "train"), ("val", "validation"))
        for clip in read_split(labels_file.with_name(f"{prefix}{name}.json"), part, labels)
    ]
    answers = labels_file.with_name(f"{prefix}test-answers.csv")
    if answers.is_file():
        listed += read_answers(answers, labels)
    return find_listed(listed, folder)


def read_labels(path: Path) -> list[str]:
    """The classes' names; raises InputError."""
    labels = _read_json(path)
    if not isinstance(labels, dict) or not labels:
        raise InputError(f"{path}: is not an object of class names and numbers")
    return list(labels)


def read_split(path: Path, part: str, labels: list[str]) -> Iterator[Listed]:
    """The clips of a list; the class is the template without its brackets. Raises InputError."""
    entries = _read_json(path)
    if not isinstance(entries, list):
        raise InputError(f"{path}: is not a list of clips")
    known = set(labels)
    for number, entry in enumerate(entries, 1):
        where = f"{path}, clip {number}"
        values = [entry.get(key) for key in ("id", "template")] if isinstance(entry, dict) else []
        match values:
            case [str(video) | int(video), str(template)] if str(video).isalnum():
                label = template.replace("[", "").replace("]", "")
                yield Listed(part, str(video), _known(label, known, where))
            case _:
                raise InputError(f"{where}: has no id or no template; lists without labels cannot be used")


def read_answers(path: Path, labels: list[str]) -> Iterator[Listed]:
    """The test clips with their classes; raises InputError with the line's number."""
    known = set(labels)
    for line, text in read_lines(path):
        video, _, label = text.partition(";")
        if not video or not label:
            raise InputError(f"{path}, line {line}: {text!r} is not ID;CLASS")
        yield Listed("test", video.strip(), _known(label.strip(), known, f"{path}, line {line}"))


def _known(label: str, known: Set[str], where: str) -> str:
    if label not in known:
        raise InputError(f"{where}: class {label!r} is not in labels.json; {nearest(label, known)}")
    return label


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
