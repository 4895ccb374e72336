"""HMDB51 (Kuehne et al., ICCV 2011) and its three official splits, one list a class and split::

    brush_hair_test_split1.txt    April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1

where 1 is training, 2 testing, and 0 neither. Names may hold spaces and any of ``#;()[]&!'+=@``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kinet.data.groups import group_rule
from kinet.data.sources.listing import Listed, Listing, find_listed, find_lists
from kinet.data.table import read_lines
from kinet.errors import InputError

USUAL_LISTS = ("testTrainMulti_7030_splits",)
PARTS = {"0": None, "1": "train", "2": "test"}


def hmdb51(folder: Path, split: int, lists: Path | None = None) -> Listing:
    """The training and test clips of a split, wherever below ``folder`` they lie.

    ``lists``: the folder of the official lists; by default ``folder``, or testTrainMulti_7030_splits in or beside
    it. A class without a list is not there.
    Raises InputError.
    """
    ending = f"_test_split{split}.txt"
    found = find_lists(f"*{ending}", folder, lists, USUAL_LISTS)
    listed = [clip for path in found for clip in read_split(path, path.name.removesuffix(ending))]
    return find_listed(listed, folder, group_rule("hmdb51"))


def read_split(path: Path, label: str) -> Iterator[Listed]:
    """The training and test clips of a class's list; raises InputError with the line's number."""
    for line, text in read_lines(path):
        name, _, use = text.replace("\t", " ").rpartition(" ")
        if not name or use not in PARTS:
            raise InputError(f"{path}, line {line}: {text!r} is not NAME.avi and 0, 1 or 2")
        part = PARTS[use]
        if part is not None:
            yield Listed(part, name.strip(), label)
