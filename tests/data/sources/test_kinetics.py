"""Kinetics' csv files, and files that only partly are still there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinet.data.sources.kinetics import kinetics, read_csv
from kinet.data.sources.listing import Listed, write_listing
from kinet.errors import InputError

MakeTree = Callable[..., Path]
Write = Callable[..., Path]
LinesOf = Callable[..., list[Any]]

HEADER = "label,youtube_id,time_start,time_end,split"


def test_csv_files_of_several_years_and_layouts(tree: MakeTree, write: Write, tmp_path: Path) -> None:
    train = write(
        "train.csv",
        '"label","youtube_id","time_start","time_end","split","is_cc"',
        '"testifying","---QUuC4vJs",84,94,"train",0',
        '"massaging person\'s head","-3WnuRUC2C8",5.0,15.0,"train",1',
        '"passing American football (not in game)","3vSaRxCFvMk",101,111,"train",0',
        '"testifying","__gone_____",0,10,"train",0',
    )
    there, gone = "testifying,0wR5jVB-WPk,417,427,validate", "zumba,zzzzzzzzzzz,1,11,val"
    val = write("validate.csv", HEADER, there, gone, ends="\r\n")
    folder = tree(
        "k",
        "train/testifying/---QUuC4vJs_000084_000094.mp4",
        "train/massaging_person's_head/-3WnuRUC2C8_000005_000015.mkv",
        "3vSaRxCFvMk_000101_000111.mp4",
        "val/0wR5jVB-WPk_000417_000427.mp4",
        "val/0wR5jVB-WPk_000417_000428.mp4",
    )
    listing = kinetics(folder, [train, val])
    assert listing.parts == {
        "train": [
            ("train/testifying/---QUuC4vJs_000084_000094.mp4", "testifying"),
            ("train/massaging_person's_head/-3WnuRUC2C8_000005_000015.mkv", "massaging person's head"),
            ("3vSaRxCFvMk_000101_000111.mp4", "passing American football (not in game)"),
        ],
        "val": [("val/0wR5jVB-WPk_000417_000427.mp4", "testifying")],
    }
    assert listing.missing == [
        Listed("train", "__gone______000000_000010", "testifying"),
        Listed("val", "zzzzzzzzzzz_000001_000011", "zumba"),
    ]
    result = write_listing(listing, tmp_path / "k400.csv")
    assert Path(result["missing_by_class"]).read_text().splitlines() == [
        "class,listed,missing",
        "testifying,3,1",
        "zumba,1,1",
    ]
    assert listing.rule is not None
    assert listing.rule.group("train/testifying/---QUuC4vJs_000084_000094.mp4") == "---QUuC4vJs"


def test_without_a_split_clips_are_for_training(write: Write) -> None:
    path = write("mine.csv", HEADER.removesuffix(",split"), "zumba,zzzzzzzzzzz,1,11")
    assert [clip.part for clip in read_csv(path)] == ["train"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["youtube_id,time_start,time_end,split", "zzzzzzzzzzz,1,11,test"], "label is missing"),
        ([HEADER, "zumba,zzzzzzzzzzz,1.5,11,val"], "line 2: the time '1.5'"),
        ([HEADER, "zumba,zzzzzzzzzzz,1,-1,val"], "line 2: the time '-1'"),
        ([HEADER, "zumba,zzzzzzzzzzz,1,1234567,val"], "line 2: the time"),
        ([HEADER, "zumba,zzzzzzzzzzz,1,11,holdout"], "line 2: the split 'holdout' is not one of train, val"),
        ([HEADER, ",zzzzzzzzzzz,1,11,val"], "line 2: the label is empty"),
    ],
)
def test_a_wrong_csv_is_refused(write: Write, lines: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        list(read_csv(write("k.csv", *lines)))
    assert said in str(caught.value)


@given(content=st.binary(max_size=60) | st.text('zumba,0123.-"\r\n\0 val', max_size=60).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_csv_is_read_or_refused(lines_of: LinesOf, content: bytes) -> None:
    for header in (b"", f"{HEADER}\n".encode()):
        assert all(clip.part in ("train", "val", "test") for clip in lines_of(header + content, read_csv))
