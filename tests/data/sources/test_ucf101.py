"""UCF-101's official lists, as they are and as they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinet.data.sources.ucf101 import read_classes, read_split, ucf101
from kinet.errors import InputError

MakeTree = Callable[..., Path]
Write = Callable[..., Path]
LinesOf = Callable[..., list[Any]]

CLASSES = {"1": "Archery", "2": "HandstandPushups"}


def write_lists(write: Write, folder: str) -> Path:
    write(f"{folder}/classInd.txt", "1 Archery", "2 HandstandPushups", ends="\r\n")
    train = ["Archery/v_Archery_g08_c01.avi 1", "HandstandPushups/v_HandStandPushups_g09_c02.avi 2"]
    write(f"{folder}/trainlist02.txt", *train, "", ends="\r\n")
    write(f"{folder}/testlist02.txt", "Archery/v_Archery_g01_c01.avi", ends="\r\n")
    return write(f"{folder}/trainlist01.txt", *train).parent


def test_an_official_split(tree: MakeTree, write: Write) -> None:
    write_lists(write, "ucfTrainTestlist")
    folder = tree(
        "UCF-101",
        "Archery/v_Archery_g08_c01.avi",
        "Archery/v_Archery_g01_c01.avi",
        "HandstandPushups/v_HandStandPushups_g09_c02.avi",
        "Archery/v_Archery_g25_c01.avi",
    )
    listing = ucf101(folder, 2)
    assert listing.parts == {
        "train": [
            ("Archery/v_Archery_g08_c01.avi", "Archery"),
            ("HandstandPushups/v_HandStandPushups_g09_c02.avi", "HandstandPushups"),
        ],
        "test": [("Archery/v_Archery_g01_c01.avi", "Archery")],
    }
    assert listing.missing == []
    assert listing.rule is not None
    assert listing.rule.name == "ucf101"


def test_a_flat_folder_and_frames_and_what_is_missing(tree: MakeTree, write: Write) -> None:
    lists = write_lists(write, "lists")
    folder = tree("all", "v_Archery_g08_c01.mp4", "frames/v_Archery_g01_c01/img_00001.jpg")
    listing = ucf101(folder, 2, lists)
    assert listing.parts == {
        "train": [("v_Archery_g08_c01.mp4", "Archery")],
        "test": [("frames/v_Archery_g01_c01", "Archery")],
    }
    assert [clip.name for clip in listing.missing] == ["HandstandPushups/v_HandStandPushups_g09_c02.avi"]


def test_lists_that_are_not_there(tree: MakeTree, write: Write) -> None:
    folder = tree("all", "v_Archery_g08_c01.avi")
    with pytest.raises(InputError, match=r"no trainlist01.txt; .*--lists"):
        ucf101(folder, 1)
    lists = write_lists(write, "lists")
    with pytest.raises(InputError, match=r"testlist01.txt: cannot be read"):
        ucf101(folder, 1, lists)
    (lists / "classInd.txt").unlink()
    with pytest.raises(InputError, match=r"classInd.txt: cannot be read"):
        ucf101(folder, 2, lists)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("v_Archery_g08_c01.avi 1", "is not CLASS/CLIP.avi"),
        ("Archery/v_Archery_g08_c01.avi 1 1", "is not CLASS/CLIP.avi"),
        ("Archery/", "is not CLASS/CLIP.avi"),
        ("Archer/v_Archery_g08_c01.avi 1", "does not name the class 'Archer'"),
        ("Archery/v_Archery_g08_c01.avi 2", "Archery does not have number 2"),
        ("Archery/v_Archery_g08_c01.avi x", "Archery does not have number x"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(write: Write, line: str, said: str) -> None:
    path = write("trainlist01.txt", "Archery/v_Archery_g08_c02.avi 1", "", line)
    with pytest.raises(InputError) as caught:
        list(read_split(path, "train", CLASSES))
    assert f"{path}, line 3: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("line", ["Archery", "x Archery", "1 Biking", "2", "²  Archery"])
def test_wrong_classes_are_refused_with_their_line(write: Write, line: str) -> None:
    path = write("classInd.txt", "1 Archery", line)
    with pytest.raises(InputError, match="line 2"):
        read_classes(path)


@given(content=st.binary(max_size=80) | st.text("Archey/v_g01.c 2\r\n\0\t\x85\u2028é", max_size=80).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_list_is_read_or_refused(lines_of: LinesOf, content: bytes) -> None:
    for clip in lines_of(content, lambda path: read_split(path, "test", CLASSES)):
        assert clip.label in CLASSES.values()
    assert all(name.strip() for name in lines_of(content, lambda path: read_classes(path).values()))


def test_real_clips_by_their_official_names(shared: Path, write: Write) -> None:
    folder = shared / "data" / "ucf101_samples"
    names = sorted(path.name for path in folder.iterdir())
    classes = sorted({name.split("_")[1] for name in names})
    write("lists/classInd.txt", *(f"{number} {name}" for number, name in enumerate(classes, 1)), ends="\r\n")
    numbers = {name: number for number, name in enumerate(classes, 1)}
    lines = [f"{name.split('_')[1]}/{name}" for name in names]
    train = [f"{line} {numbers[line.partition('/')[0]]}" for line in lines[::2]]
    write("lists/trainlist01.txt", *train, ends="\r\n")
    lists = write("lists/testlist01.txt", *lines[1::2], ends="\r\n").parent
    listing = ucf101(folder, 1, lists)
    assert sorted(path for rows in listing.parts.values() for path, _ in rows) == names
    assert len(names) == 100
    assert listing.missing == []
    assert listing.rule is not None
    assert all(listing.rule.group(name) == name[2:].rpartition("_")[0] for name in names)
