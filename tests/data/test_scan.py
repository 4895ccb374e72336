"""A scan goes on whatever a clip does to it, goes on where it was interrupted, and tells all that is wrong."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kinet.data.clip_check import Facts
from kinet.data.manifest import Clip, read_manifest, write_manifest
from kinet.data.scan import CheckClip, ScanOptions, check_item, scan
from kinet.errors import InputError


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A manifest of 6 folders of 4 images, of two classes."""
    for number in range(6):
        write_clip(tmp_path / f"clip{number}", number)
    write_manifest(tmp_path / "clips.csv", [(f"clip{number}", "ab"[number % 2]) for number in range(6)])
    return tmp_path / "clips.csv"


def write_clip(folder: Path, level: int, frames: int = 4) -> None:
    folder.mkdir()
    for number in range(frames):
        Image.new("RGB", (64, 48), (40 * level, 50 * number, 0)).save(folder / f"{number}.png")


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> CheckClip:
    """A check with the fault that a clip's name tells. Worker processes find the module by the path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("faults").check


def run(manifest: Path, check: CheckClip = check_item, **options: Any) -> dict[str, Any]:
    chosen = {"out": manifest.with_name("scan"), "workers": 2, "timeout": 20.0, "memory": 256} | options
    return scan(ScanOptions(manifest=manifest, **chosen), check)


def report(manifest: Path) -> list[dict[str, str]]:
    with (manifest.with_name("scan") / "report.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def lines(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (manifest.with_name("scan") / "clips.jsonl").read_text().splitlines()]


def test_good_clips_give_an_empty_report(clips: Path) -> None:
    summary = run(clips)
    assert summary == {
        "clips": 6, "good": 6, "suspect": 0, "bad": 0, "problems": {}, "frames": 24,
        "report": str(clips.with_name("scan") / "report.csv"),
    }  # fmt: skip
    assert report(clips) == []
    assert [line["path"] for line in lines(clips)] == [f"clip{number}" for number in range(6)]
    assert json.loads((clips.with_name("scan") / "summary.json").read_text()) == summary


def test_bad_and_suspect_clips_are_told_apart_and_left_out_as_asked(clips: Path) -> None:
    root = clips.parent
    (root / "empty.mp4").touch()
    write_clip(root / "short", 6, frames=2)
    shutil.copytree(root / "clip1", root / "copy")
    rows = [(f"clip{number}", "ab"[number % 2]) for number in range(6)]
    rows += [("missing.mp4", "a"), ("empty.mp4", "b"), ("short", "a"), ("copy", "a"), ("clip0", "a")]
    write_manifest(clips, rows)
    summary = run(clips, good=root / "good.csv")
    assert [tuple(row.values()) for row in report(clips)] == [
        ("missing.mp4", "a", "bad", "missing", "no such file or folder"),
        ("empty.mp4", "b", "bad", "empty", "file is empty"),
        ("short", "a", "suspect", "short", "2 frames, fewer than 3 segments"),
        ("copy", "a", "suspect", "duplicate", "the same content as clip1, there with the label b"),
        ("clip0", "a", "suspect", "duplicate", "listed before"),
    ]
    assert (summary["good"], summary["suspect"], summary["bad"]) == (6, 3, 2)
    assert summary["problems"] == {"missing": 1, "empty": 1, "short": 1, "duplicate": 2}
    assert [clip.name for clip in read_manifest(root / "good.csv")] == [
        *(f"clip{number}" for number in range(6)), "short", "copy", "clip0"
    ]  # fmt: skip
    run(clips, good=root / "good.csv", strict=True)
    assert [clip.name for clip in read_manifest(root / "good.csv")] == [f"clip{number}" for number in range(6)]


def test_faults_of_the_decoder_are_bad_clips_and_the_rest_is_checked(clips: Path, faulty: CheckClip) -> None:
    names = ["fine1", "segfault", "abort", "fine2", "hang", "memory", "raise", "fine3"]
    write_manifest(clips, [(name, "a") for name in names])
    summary = run(clips, faulty, timeout=2.0)
    assert summary["problems"] == {"timeout": 1, "memory": 1, "crash": 2, "error": 1}
    assert (summary["good"], summary["bad"]) == (3, 5)
    assert {row["path"]: row["cause"] for row in report(clips)} == {
        "segfault": "the process died of SIGSEGV",
        "abort": "the process died of SIGABRT",
        "hang": "not done in 2 s",
        "memory": "wants more than 256 MB of memory",
        "raise": "ValueError: a bad header",
    }


def test_an_interrupted_scan_goes_on(clips: Path, faulty: CheckClip) -> None:
    run(clips)
    journal = clips.with_name("scan") / "clips.jsonl"
    complete = journal.read_bytes()
    place = complete.index(b"clip3") + 20
    journal.write_bytes(complete[:place])  # in the middle of a line
    assert run(clips, faulty)["frames"] == 12  # the faulty check finds no frames: three clips were kept
    journal.write_bytes(complete[:place])
    assert run(clips)["good"] == 6
    assert journal.read_bytes() == complete


def test_what_is_known_is_not_checked_again(clips: Path, faulty: CheckClip) -> None:
    run(clips)
    assert run(clips, faulty)["good"] == 6  # the faulty check would find no frames
    assert lines(clips)[0]["frames"] == 4


def test_a_clip_that_changed_or_came_back_is_checked_again(clips: Path) -> None:
    (clips.parent / "clip2").rename(clips.parent / "away")
    assert run(clips)["problems"] == {"missing": 1}
    (clips.parent / "away").rename(clips.parent / "clip2")
    (clips.parent / "clip3" / "1.png").write_bytes(b"")
    assert run(clips)["problems"] == {"undecodable": 1}
    assert [row["path"] for row in report(clips)] == ["clip3"]


def test_a_clip_that_hit_a_limit_is_checked_again_under_another(clips: Path, faulty: CheckClip) -> None:
    write_manifest(clips, [("hang", "a"), ("fine", "a")])
    assert run(clips, faulty, timeout=1.0)["problems"] == {"timeout": 1}
    assert run(clips, timeout=1.0)["problems"] == {"timeout": 1}
    assert run(clips, timeout=2.0)["problems"] == {"missing": 1}


def test_other_segments_need_no_new_check(clips: Path, faulty: CheckClip) -> None:
    run(clips)
    assert run(clips, faulty, segments=5)["problems"] == {"short": 6}


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"timeout": 0.0}, {"timeout": float("nan")}, {"memory": -1}, {"segments": 0}]
)
def test_wrong_options_are_refused(clips: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(options))} "):
        run(clips, **options)


@pytest.mark.parametrize("text", ["notes\n", "[]\n", '{"path": "clip0"}\n'])
def test_another_file_in_the_journals_place_is_refused(clips: Path, text: str) -> None:
    journal = clips.with_name("scan") / "clips.jsonl"
    journal.parent.mkdir()
    journal.write_text(text)
    with pytest.raises(InputError, match="not written by a scan"):
        run(clips)
    assert journal.read_text() == text


def test_the_check_of_an_item_is_that_of_its_clip(clips: Path) -> None:
    facts = check_item((Clip(clips.parent / "clip0", 0, "clip0"), 3))
    assert facts == Facts("images", "", 64, 48, 4, content=facts.content)
