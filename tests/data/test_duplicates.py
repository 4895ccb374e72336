"""Clips of the same content: found whatever their names, and read only as far as needed."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet.data.duplicates import END, repeated, same_content


@given(keys=st.lists(st.none() | st.integers(0, 5)))
def test_repeated_keys(keys: list[int | None]) -> None:
    expected = {key: [place for place, other in enumerate(keys) if other == key] for key in keys if key is not None}
    assert sorted(repeated(keys)) == sorted(places for places in expected.values() if len(places) > 1)


def test_only_equal_bytes_are_the_same_content(tmp_path: Path) -> None:
    size = 3 * END
    contents = {
        "a": bytes(size),
        "other middle": bytes(END) + b"1" + bytes(2 * END - 1),
        "b": bytes(size),
        "other end": bytes(size - 1) + b"1",
        "longer": bytes(size + 1),
        "other beginning": b"1" + bytes(size - 1),
        "c": bytes(size),
        "small": b"x",
        "small too": b"x",
        "small other": b"y",
        "empty": b"",
        "empty too": b"",
    }
    paths = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        paths.append(str(tmp_path / name))
    seen: list[int] = []
    same, unreadable = same_content([*paths, str(tmp_path / "nothing")], seen.append)
    assert same == [[0, 2, 6], [7, 8]]
    assert unreadable == {12: "No such file or directory"}
    assert sum(seen) == 13


def test_folders_of_images(tmp_path: Path) -> None:
    for name, frames in {
        "a": [b"1", b"22"],
        "b": [b"1", b"22"],
        "swapped": [b"22", b"1"],
        "moved": [b"12", b"2"],
    }.items():
        (tmp_path / name).mkdir()
        for number, frame in enumerate(frames):
            (tmp_path / name / f"{number}.jpg").write_bytes(frame)
    (tmp_path / "b" / "notes.txt").write_text("not a frame")
    (tmp_path / "none").mkdir()
    paths = [str(tmp_path / name) for name in ("a", "swapped", "b", "moved", "none")]
    assert same_content(paths) == ([[0, 2]], {})


def test_files_of_different_size_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / str(number) for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(number + 1))

    def refuse(*arguments: Any) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(builtins, "open", refuse)
    assert same_content([str(path) for path in paths]) == ([], {})
