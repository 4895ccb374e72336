"""Manifests: read back as written and refused in one line that says where."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinet.data.manifest import Clip, read_manifest, write_manifest
from kinet.errors import InputError


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


# Reading


def test_clips_come_in_the_files_order_and_classes_sorted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "train.csv", "note,label,path", ",wave hands,b/2.mp4", "", "x,clap,a/1.mp4", '"y","clap","c, d.mp4"'
    )
    manifest = read_manifest(path)
    assert manifest.source == path
    assert manifest.classes == ("clap", "wave hands")
    assert len(manifest) == 3
    expected = [
        Clip(tmp_path / "b/2.mp4", 1, "b/2.mp4"),
        Clip(tmp_path / "a/1.mp4", 0, "a/1.mp4"),
        Clip(tmp_path / "c, d.mp4", 0, "c, d.mp4"),
    ]
    assert list(manifest) == expected
    assert manifest[2] == expected[2]
    for index in (3, -1):
        with pytest.raises(IndexError):
            manifest[index]


def test_paths_are_relative_to_the_root(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    path = write(tmp_path / "train.csv", "path,label", "a/1.mp4,clap", f"{root}/b.mp4,clap", "c..d/..e.mp4,clap")
    clips = read_manifest(path, root=root)
    assert [clip.path for clip in clips] == [root / "a/1.mp4", root / "b.mp4", root / "c..d/..e.mp4"]
    assert clips[1].name == f"{root}/b.mp4"


def test_an_absolute_path_needs_no_root(tmp_path: Path) -> None:
    elsewhere = tmp_path.parent / "elsewhere.mp4"
    path = write(tmp_path / "train.csv", "path,label", f"{elsewhere},clap")
    assert read_manifest(path)[0].path == elsewhere


def test_given_classes_decide_the_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "test.csv", "path,label", "1.mp4,wave", "2.mp4,clap")
    manifest = read_manifest(path, classes=["wave", "run", "clap"])
    assert manifest.classes == ("wave", "run", "clap")
    assert [clip.label for clip in manifest] == [0, 2]


def test_byte_order_marks_line_ends_and_spaces_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(b"\xef\xbb\xbfpath, label\r\n1.mp4, clap\r\n  \r\n\r\n2.mp4,clap")
    manifest = read_manifest(path)
    assert manifest.classes == ("clap",)
    assert [clip.name for clip in manifest] == ["1.mp4", "2.mp4"]


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: (
        name == name.strip() and not set(name) & set("\0\r\n") and ".." not in name and not name.startswith("/")
    )
)


@given(rows=st.lists(st.tuples(NAMES, NAMES), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_written_is_read(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "written.csv"
    write_manifest(path, rows)
    manifest = read_manifest(path)
    assert [(clip.name, manifest.classes[clip.label]) for clip in manifest] == rows
    assert list(manifest.classes) == sorted({label for _, label in rows})


@given(content=st.binary(max_size=60) | st.text(st.sampled_from('path,label\n"\r\0 ./é')).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
def test_any_file_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "noise.csv"
    for header in (b"", b"path,label\n"):
        path.write_bytes(header + content)
        try:
            manifest = read_manifest(path)
        except InputError:
            continue
        assert len(list(manifest)) > 0


def test_many_clips_take_little_memory(tmp_path: Path) -> None:
    """What worker processes get: the names' bytes and 16 bytes a clip."""
    rows = [(f"class {number % 400}/clip_{number:06d}.mp4", f"class {number % 400}") for number in range(20_000)]
    write_manifest(tmp_path / "train.csv", rows)
    manifest = read_manifest(tmp_path / "train.csv")
    assert len(pickle.dumps(manifest)) < sum(len(name) for name, _ in rows) + 17 * len(rows) + 20_000
    assert manifest[12_345].name == rows[12_345][0]


def test_clips_with_several_labels(tmp_path: Path) -> None:
    rows = [("1.mp4", "wave|clap"), ("2.mp4", "run"), ("3.mp4", "clap|run|wave")]
    path = tmp_path / "train.csv"
    write_manifest(path, rows, several_labels=True)
    assert path.read_text().startswith("path,labels\n")
    for classes in (None, ["clap", "run", "wave"]):
        manifest = read_manifest(path, several_labels=True, classes=classes)
        assert manifest.classes == ("clap", "run", "wave")
        assert [(clip.label, clip.also) for clip in manifest] == [(2, (0,)), (1, ()), (0, (1, 2))]
    message = error_of(lambda: read_manifest(path))
    assert "several labels" in message
    assert "column label" in message
    assert "unknown" in error_of(lambda: read_manifest(path, several_labels=True, classes=["clap", "wave"]))
    path = write(tmp_path / "faulty.csv", "path,labels", "1.mp4,wave| |clap")
    assert "line 2" in error_of(lambda: read_manifest(path, several_labels=True))
    path = write(tmp_path / "repeated.csv", "path,labels", "1.mp4,wave|wave")
    assert read_manifest(path, several_labels=True)[0].also == ()


def test_a_label_column_holds_one_label_whatever_it_looks_like(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "path,label,labels", "1.mp4,wave|clap,other")
    assert read_manifest(path, several_labels=True).classes == ("wave|clap",)


# What is refused


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([""], "path is missing"),
        (["path,class", "1.mp4,clap"], "label is missing"),
        (["path;label", "1.mp4;clap"], "path is missing"),
        (["path,label"], "no clips"),
        (["path,label", "1.mp4,clap", "2.mp4,"], "line 3: the label is empty"),
        (["path,label", "", "  ,clap"], "line 3: the path is empty"),
        (["path,label", "1.mp4"], "line 2: 1 values under 2 columns"),
        (["path,label", "a,b.mp4,clap"], "line 2: 3 values under 2 columns"),
        (["path,label", "1\0.mp4,clap"], "line 2: the path holds a line break or a NUL"),
        (["path,label", '"1.mp4,clap', "2.mp4,clap"], "line 3: 1 values under 2 columns"),
        (["path,label", '1.mp4,"clap', '2.mp4"'], "line 3: the label holds a line break"),
        (["path,label", "1.mp4,clap", "../2.mp4,clap"], "line 3: ../2.mp4 climbs"),
        (["path,label", "a/../../2.mp4,clap"], "line 2: a/../../2.mp4 climbs"),
        (["path,label", "a\\..\\2.mp4,clap"], "line 2"),
        (["path,label", f"{'x' * 200_000},clap"], "line 2: not csv"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_line(tmp_path: Path, lines: list[str], said: str) -> None:
    path = write(tmp_path / "train.csv", *lines)
    message = error_of(lambda: read_manifest(path))
    assert str(path) in message
    assert said in message


def test_a_path_outside_the_root_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "path,label", f"{tmp_path}/videos-old/1.mp4,clap")
    message = error_of(lambda: read_manifest(path, root=tmp_path / "videos"))
    assert "line 2" in message
    assert "outside the root" in message


def test_an_unknown_class_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "test.csv", "path,label", "1.mp4,wave", "2.mp4,hand stand")
    message = error_of(lambda: read_manifest(path, classes=["wave", "handstand", "clap"]))
    assert "line 3" in message
    assert "'hand stand'" in message
    assert "'handstand'" in message
    assert "no classes" in error_of(lambda: read_manifest(path, classes=[]))


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    lines = [b"path,label", *[b"%d.mp4,clap" % number for number in range(5000)], b"caf\xe9.mp4,clap"]
    path.write_bytes(b"\n".join(lines))
    assert "line 5002: not UTF-8" in error_of(lambda: read_manifest(path))


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in error_of(lambda: read_manifest(tmp_path / "nothing.csv"))
    assert "cannot be read" in error_of(lambda: read_manifest(tmp_path))
    assert "cannot be written" in error_of(lambda: write_manifest(tmp_path / "no" / "where.csv", [("a", "b")]))


@pytest.mark.parametrize("name", ["", " a.mp4", "a\n.mp4", "a\r.mp4", "a\0.mp4", "caf\udce9.mp4"])
def test_a_name_that_would_not_come_back_is_not_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "train.csv"
    assert "rename it" in error_of(lambda: write_manifest(path, [("a.mp4", "clap"), (name, "clap")]))
    assert not path.exists()
