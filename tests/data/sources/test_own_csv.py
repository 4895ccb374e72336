"""A user's own csv file: any columns, one label or several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kinet.data.sources.listing import Listed
from kinet.data.sources.own_csv import own_csv
from kinet.errors import InputError

MakeTree = Callable[..., Path]
Write = Callable[..., Path]


def test_columns_are_mapped_and_paths_made_relative(tree: MakeTree, write: Write) -> None:
    folder = tree("clips", "a/1.mp4", "a b/2.mp4", "frames/3/1.jpg")
    path = write(
        "mine.csv",
        "who,what,file",
        "x,run,a/1.mp4",
        f"y,walk,{folder}/a b/2.mp4",
        "z,run,./frames/../frames/3",
        "z,run,4.mp4",
    )
    listing = own_csv(folder, path, path_column="file", label_column="what")
    assert listing.parts == {"train": [("a/1.mp4", "run"), ("a b/2.mp4", "walk"), ("frames/3", "run")]}
    assert listing.missing == [Listed("train", "4.mp4", "run")]
    assert not listing.several_labels


def test_several_labels(tree: MakeTree, write: Write) -> None:
    folder = tree("clips", "1.mp4", "2.mp4")
    path = write("mine.csv", "path,label", "1.mp4,run; wave;run", "2.mp4,run")
    listing = own_csv(folder, path, separator=";")
    assert listing.parts == {"train": [("1.mp4", "run|wave"), ("2.mp4", "run")]}
    assert listing.several_labels
    for row, separator in (("1.mp4,run;;wave", ";"), ("1.mp4,run|x;wave", ";"), ("1.mp4,run", "")):
        with pytest.raises(InputError, match="empty"):
            own_csv(folder, write("mine.csv", "path,label", row), separator=separator)


@pytest.mark.parametrize("name", ["../1.mp4", "/1.mp4", "a/../../1.mp4", ".", "../clips-old/1.mp4"])
def test_paths_outside_are_refused(tree: MakeTree, write: Write, name: str) -> None:
    path = write("mine.csv", "path,label", f"{name},run")
    with pytest.raises(InputError, match=r"line 2: .*outside"):
        own_csv(tree("clips", "1.mp4"), path)


def test_columns_that_are_not_there(tree: MakeTree, write: Write) -> None:
    path = write("mine.csv", "path,label", "1.mp4,run")
    with pytest.raises(InputError, match="file,label; file is missing"):
        own_csv(tree("clips", "1.mp4"), path, path_column="file")
    with pytest.raises(InputError, match=r"none of 1 clips listed for train is there, such as 1\.mp4"):
        own_csv(tree("empty"), path)
