"""Kinetics-400, 600 and 700 (Kay et al., 2017; Carreira et al., 2018, 2019): official csv files and what is left.

The csv files have the columns label, youtube_id, time_start, time_end and split; those of Kinetics-400 also is_cc.
A clip's file is ID_START_END.mp4, its seconds with six digits, in a folder of its class or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kinet.data.groups import group_rule
from kinet.data.sources.listing import Listed, Listing, find_listed
from kinet.data.table import read_columns
from kinet.errors import InputError

PARTS = {"": "train", "train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


def kinetics(folder: Path, lists: Sequence[Path]) -> Listing:
    """The clips of official csv files, wherever below ``folder`` they lie, by their split.

    Raises InputError.
    """
    listed = [clip for path in lists for clip in read_csv(path)]
    return find_listed(listed, folder, group_rule("kinetics"))


def read_csv(path: Path) -> Iterator[Listed]:
    """The clips of a csv file; without the column split, they are for training.

    Raises InputError with the line's number.
    """
    columns = ("label", "youtube_id", "time_start", "time_end")
    for line, (label, video, start, end, split) in read_columns(path, columns, optional=("split",)):
        part = PARTS.get(split)
        if part is None:
            raise InputError(f"{path}, line {line}: the split {split!r} is not one of {', '.join(filter(None, PARTS))}")
        seconds = [_seconds(text, path, line) for text in (start, end)]
        yield Listed(part, "_".join([video, *(f"{second:06d}" for second in seconds)]), label)


def _seconds(text: str, path: Path, line: int) -> int:
    whole, _, fraction = text.partition(".")
    if not (whole.isascii() and whole.isdecimal() and len(whole) <= 6) or fraction.strip("0"):
        raise InputError(f"{path}, line {line}: the time {text!r} is not a whole number of seconds")
    return int(whole)
