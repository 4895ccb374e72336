"""What a check of manifests finds."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kinet.data.check import Report, check_manifests, summary, write_report
from kinet.data.groups import group_rule
from kinet.data.manifest import write_manifest


def make(folder: Path, name: str, *rows: tuple[str, str], several: bool = False) -> Path:
    """A manifest, and its clips, each with its own name as content."""
    for path, _ in rows:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path.rpartition("/")[2])
    write_manifest(folder / name, rows, several_labels=several)
    return folder / name


def found(report: Report) -> list[tuple[str, str, list[tuple[str, str]]]]:
    return [
        (finding.kind, finding.key, [(place.manifest.stem, place.path) for place in finding.places])
        for finding in report.findings
    ]


def test_a_sound_split_has_no_findings(tmp_path: Path) -> None:
    train = make(tmp_path, "train.csv", ("v_A_g01_c01.avi", "A"), ("v_A_g01_c02.avi", "A"), ("v_B_g02_c01.avi", "B"))
    test = make(tmp_path, "test.csv", ("v_A_g02_c01.avi", "A"), ("v_B_g01_c01.avi", "B"))
    report = check_manifests([train, test])
    assert (report.findings, report.clips, report.ungrouped) == ([], 5, 0)
    assert report.rule is not None
    assert report.rule.name == "ucf101"
    assert summary(report) == ["no findings"]


def test_every_finding(tmp_path: Path) -> None:
    train = make(
        tmp_path,
        "train.csv",
        ("A/v_A_g01_c01.avi", "A"),
        ("A/./v_A_g01_c01.avi", "A"),
        ("A/v_A_g02_c01.avi", "A"),
        ("copies/v_A_g02_c01.avi", "A"),
        ("B/v_B_g01_c01.avi", "B"),
        ("B/v_B_g01_c02.avi", "B"),
    )
    test = make(
        tmp_path,
        "test.csv",
        ("A/v_A_g02_c02.avi", "A"),
        ("B/v_B_g01_c01.avi", "B"),
        ("C/v_C_g01_c01.avi", "C"),
        ("C/v_C_g02_c01.avi", "C"),
    )
    (tmp_path / "C/v_C_g01_c01.avi").unlink()
    report = check_manifests([train, test])
    assert found(report) == [
        ("same path", "A/v_A_g01_c01.avi", [("train", "A/v_A_g01_c01.avi"), ("train", "A/./v_A_g01_c01.avi")]),
        ("same path", "B/v_B_g01_c01.avi", [("train", "B/v_B_g01_c01.avi"), ("test", "B/v_B_g01_c01.avi")]),
        ("same content", "A/v_A_g02_c01.avi", [("train", "A/v_A_g02_c01.avi"), ("train", "copies/v_A_g02_c01.avi")]),
        (
            "same source",
            "A_g02",
            [("train", "A/v_A_g02_c01.avi"), ("train", "copies/v_A_g02_c01.avi"), ("test", "A/v_A_g02_c02.avi")],
        ),
        (
            "same source",
            "B_g01",
            [("train", "B/v_B_g01_c01.avi"), ("train", "B/v_B_g01_c02.avi"), ("test", "B/v_B_g01_c01.avi")],
        ),
        ("missing class", "C", [("train", "")]),
        ("unreadable", "No such file or directory", [("test", "C/v_C_g01_c01.avi")]),
    ]
    lines = summary(report)
    assert lines[0].startswith("same path: 2, 1 in several manifests; the first: A/v_A_g01_c01.avi (")
    assert [line.partition(":")[0] for line in lines] == [
        "same path",
        "same content",
        "same source",
        "missing class",
        "unreadable",
    ]
    without = check_manifests([train, test], files=False)
    assert [kind for kind, _, _ in found(without)] == ["same path"] * 2 + ["same source"] * 2 + ["missing class"]


def test_a_rule_of_ones_own(tmp_path: Path) -> None:
    train = make(tmp_path, "train.csv", ("set1_seq01_a.avi", "hug"), ("other.avi", "hug"))
    test = make(tmp_path, "test.csv", ("set2_seq01_b.avi", "hug"), ("another.avi", "hug"))
    report = check_manifests([train, test], rule=group_rule(r"(seq\d+)"))
    assert found(report) == [("same source", "seq01", [("train", "set1_seq01_a.avi"), ("test", "set2_seq01_b.avi")])]
    assert report.ungrouped == 2
    report = check_manifests([train, test])
    assert report.rule is None
    assert summary(report) == ["source videos were not compared: the clips' names tell none; give --group"]


def test_manifests_in_different_folders_and_of_several_labels(tmp_path: Path) -> None:
    train = make(tmp_path / "a", "train.csv", ("1.mp4", "run|wave"), several=True)
    test = make(tmp_path / "b", "test.csv", ("1.mp4", "wave"))
    report = check_manifests([train, test])
    assert [finding.kind for finding in report.findings] == ["same content", "missing class"]
    write_report(tmp_path / "report.csv", report)
    with (tmp_path / "report.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["finding", "kind", "key", "manifest", "path", "label"],
            ["1", "same content", "1.mp4", str(train), "1.mp4", "run|wave"],
            ["1", "same content", "1.mp4", str(test), "1.mp4", "wave"],
            ["2", "missing class", "run", str(test), "", "run"],
        ]
    report = check_manifests([train, test], root=tmp_path / "a")
    assert [finding.kind for finding in report.findings] == ["same path", "missing class"]


def test_the_shared_split_is_told_apart_by_its_groups(shared: Path, tmp_path: Path) -> None:
    """The split that the clips' owner made: seq06 and seq08 on one side."""
    folder = shared / "data" / "ut_interaction"
    paths = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.avi"))
    sides = {"train.csv": [], "test.csv": []}  # type: dict[str, list[tuple[str, str]]]
    for path in paths:
        sides["test.csv" if "seq06" in path or "seq08" in path else "train.csv"].append((path, path.partition("/")[0]))
    for name, rows in sides.items():
        write_manifest(tmp_path / name, rows)
    report = check_manifests([tmp_path / name for name in sides], root=folder, rule=group_rule(r"(seq\d+)"))
    assert report.of("same source") == []
    assert report.of("unreadable") == []
    assert report.ungrouped == 0


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_manifests(tmp_path: Path, count: int) -> None:
    paths = [make(tmp_path, f"{number}.csv", (f"{number}.mp4", "run")) for number in range(count)]
    assert check_manifests(paths).findings == []
