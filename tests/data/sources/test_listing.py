"""Finding listed clips on disk, and writing what was found and what was not."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from kinet.data.groups import group_rule
from kinet.data.manifest import read_manifest
from kinet.data.sources.listing import ClipFiles, Listed, Listing, find_listed, find_lists, write_listing
from kinet.errors import InputError

MakeTree = Callable[..., Path]


def read_table(path: str) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


# Finding


def test_clips_are_found_wherever_they_lie(tree: MakeTree) -> None:
    folder = tree(
        "set", "flat.avi", "train/run fast/x.mp4", "val/a/b/made.MKV", "frames/clip.avi/1.jpg", ".git/hidden.mp4"
    )
    files = ClipFiles(folder)
    found = {name: files.find(name, "run_fast") for name in ("flat.avi", "run/x.avi", "made", "clip.avi", "clip")}
    assert found == {
        "flat.avi": "flat.avi",
        "run/x.avi": "train/run fast/x.mp4",
        "made": "val/a/b/made.MKV",
        "clip.avi": "frames/clip.avi",
        "clip": "frames/clip.avi",
    }
    assert files.find("hidden.mp4", "") is None
    assert files.find("fla", "") is None


def test_of_clips_with_one_name_that_of_the_class_is_taken(tree: MakeTree) -> None:
    files = ClipFiles(tree("set", "run/1.mp4", "Wave_Hands/1.mp4", "walk/1.mp4"))
    assert files.find("1.mp4", "wave hands") == "Wave_Hands/1.mp4"
    assert files.find("1.mp4", "walk") == "walk/1.mp4"
    assert files.find("1.mp4", "fly") == "Wave_Hands/1.mp4"


def test_pictures_beside_videos_or_folders_are_no_clip(tree: MakeTree) -> None:
    folder = tree("set", "run/cover.jpg", "run/1.mp4", "walk/cover.jpg", "walk/2/1.png", "cover.jpg", "talk/a.txt")
    assert sorted(path for paths in ClipFiles(folder).paths.values() for path in paths) == ["run/1.mp4", "walk/2"]


def test_a_folder_without_clips_is_refused(tree: MakeTree, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no video file"):
        ClipFiles(tree("empty", "a/readme.txt", "1.jpg"))
    with pytest.raises(InputError, match="cannot be listed"):
        ClipFiles(tmp_path / "nothing")


def test_what_is_not_there_is_missing(tree: MakeTree) -> None:
    folder = tree("set", "run/1.mp4")
    clips = [Listed("val", "1", "run"), Listed("test", "2", "run"), Listed("val", "3", "walk")]
    listing = find_listed(clips, folder)
    assert listing.parts == {"val": [("run/1.mp4", "run")]}
    assert listing.missing == clips[1:]
    with pytest.raises(InputError, match="none of 1 clips listed for val is there, such as 3"):
        find_listed(clips[1:], folder)
    with pytest.raises(InputError, match="none of 1 clips listed for train is there, such as 4"):
        find_listed([*clips, Listed("train", "4", "run")], folder)
    with pytest.raises(InputError, match="name no clip"):
        find_listed([], folder)


def test_official_lists_are_looked_for_in_and_beside_the_folder(tree: MakeTree, tmp_path: Path) -> None:
    folder = tree("videos", "lists/a.txt", "a.md")
    usual = ("lists",)
    assert find_lists("*.txt", folder, None, usual) == [folder / "lists/a.txt"]
    assert find_lists("*.md", folder, None, usual) == [folder / "a.md"]
    beside = tree("lists", "c.csv", "b.csv")
    assert find_lists("*.csv", folder, None, usual) == [beside / "b.csv", beside / "c.csv"]
    for given in (folder, tmp_path / "nothing"):
        with pytest.raises(InputError, match="--lists"):
            find_lists("*.csv", folder, given, usual)


# Writing


def test_parts_missing_clips_and_counts_are_written(tmp_path: Path) -> None:
    rows = [(f"run/{number}.mp4", "run") for number in range(3)]
    missing = [Listed("train", "8", "walk, slowly"), Listed("test", "9", "run"), Listed("train", "7", "walk, slowly")]
    listing = Listing({"test": rows[2:], "train": rows[:2]}, missing)
    out = tmp_path / "new" / "set.csv"
    result = write_listing(listing, out)
    assert result == {
        "classes": 1,
        "manifest": str(out),
        "clips": 2,
        "test": str(tmp_path / "new/set_test.csv"),
        "test_clips": 1,
        "missing": 3,
        "missing_clips": str(tmp_path / "new/set_missing.csv"),
        "missing_by_class": str(tmp_path / "new/set_missing_by_class.csv"),
    }
    assert [clip.name for clip in read_manifest(out)] == ["run/0.mp4", "run/1.mp4"]
    assert [clip.name for clip in read_manifest(Path(result["test"]))] == ["run/2.mp4"]
    assert read_table(result["missing_clips"]) == [["part", "name", "label"], *map(list, missing)]
    assert read_table(result["missing_by_class"]) == [
        ["class", "listed", "missing"],
        ["walk, slowly", "2", "2"],
        ["run", "4", "1"],
    ]
    result = write_listing(Listing(listing.parts, []), out)
    assert result["missing"] == 0
    assert read_table(result["missing_clips"]) == [["part", "name", "label"]]
    assert "missing" not in write_listing(Listing(listing.parts), out)


def test_the_first_part_is_the_manifest(tmp_path: Path) -> None:
    result = write_listing(Listing({"val": [("1.mp4", "run")]}), tmp_path / "set.csv")
    assert result == {"classes": 1, "manifest": str(tmp_path / "set.csv"), "clips": 1}


def test_holding_out_keeps_the_sets_groups_together(tmp_path: Path) -> None:
    rows = [(f"v_Run_g{group:02d}_c{clip:02d}.avi", "Run") for group in range(10) for clip in range(3)]
    listing = Listing({"train": rows, "test": rows[:1]}, rule=group_rule("ucf101"))
    result = write_listing(listing, tmp_path / "set.csv", share=0.3)
    assert (result["clips"], result["val_clips"], result["test_clips"]) == (21, 9, 1)
    held = [clip.name for clip in read_manifest(Path(result["val"]))]
    assert len({name[:9] for name in held}) == 3
    result = write_listing(listing, tmp_path / "set.csv", share=0.3, rule=group_rule(r"_c(\d+)"))
    held = [clip.name for clip in read_manifest(Path(result["val"]))]
    assert len({name[-7:] for name in held}) == 1


@pytest.mark.parametrize("parts", [{"test": [("1.mp4", "run")]}, {"train": [("1.mp4", "run")], "val": []}])
def test_only_training_clips_are_held_out(tmp_path: Path, parts: dict[str, list[tuple[str, str]]]) -> None:
    with pytest.raises(InputError, match="hold-out"):
        write_listing(Listing(parts), tmp_path / "set.csv", share=0.5)


def test_several_labels_are_written_as_such(tmp_path: Path) -> None:
    rows = [(f"{number}.mp4", "run|wave") for number in range(10)]
    listing = Listing({"train": rows}, several_labels=True)
    result = write_listing(listing, tmp_path / "set.csv", share=0.2)
    assert (result["classes"], result["clips"], result["val_clips"]) == (2, 8, 2)
    assert read_manifest(tmp_path / "set.csv", several_labels=True)[0].also == (1,)
