"""UCF-101 (Soomro et al., 2012) and its three official splits. The lists, often with Windows line ends::

classInd.txt       1 ApplyEyeMakeup
trainlist01.txt    ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
testlist01.txt     ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kinet.data.groups import group_rule
from kinet.data.sources.listing import Listed, Listing, find_listed, find_lists
from kinet.data.table import read_lines
from kinet.errors import InputError

USUAL_LISTS = ("ucfTrainTestlist",)


def ucf101(folder: Path, split: int, lists: Path | None = None) -> Listing:
    """The training and test clips of a split, wherever below ``folder`` they lie.

    ``lists``: the folder of the official lists; by default ``folder``, or ucfTrainTestlist in or beside it.
    Raises InputError.
    """
    place = find_lists(f"trainlist{split:02d}.txt", folder, lists, USUAL_LISTS)[0].parent
    classes = read_classes(place / "classInd.txt")
    listed = [
        clip for part in ("train", "test") for clip in read_split(place / f"{part}list{split:02d}.txt", part, classes)
    ]
    return find_listed(listed, folder, group_rule("ucf101"))


def read_classes(path: Path) -> dict[str, str]:
    """Class names by their number, as the lists write it; raises InputError with the line's number."""
    classes: dict[str, str] = {}
    for line, text in read_lines(path):
        number, _, name = text.partition(" ")
        if not number.isdecimal() or not name.strip() or number in classes:
            raise InputError(f"{path}, line {line}: {text!r} is not a new NUMBER CLASS, such as 1 ApplyEyeMakeup")
        classes[number] = name.strip()
    return classes


def read_split(path: Path, part: str, classes: dict[str, str]) -> Iterator[Listed]:
    """The clips of a list, with or without the classes' numbers; raises InputError with the line's number."""
    names = set(classes.values())
    for line, text in read_lines(path):
        name, *number = text.split()
        label = name.partition("/")[0]
        if len(number) > 1 or "/" not in name or name.endswith("/"):
            raise InputError(f"{path}, line {line}: {text!r} is not CLASS/CLIP.avi or CLASS/CLIP.avi NUMBER")
        if label not in names:
            raise InputError(f"{path}, line {line}: classInd.txt does not name the class {label!r}")
        if number and classes.get(number[0]) != label:
            raise InputError(f"{path}, line {line}: {label} does not have number {number[0]} in classInd.txt")
        yield Listed(part, name, label)
