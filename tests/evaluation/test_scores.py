from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinet.errors import InputError
from kinet.evaluation.scores import ScoreFile, read_scores, write_scores


@pytest.fixture
def scores() -> ScoreFile:
    return ScoreFile(
        names=("a/ü [1].avi", "b.avi", "c.avi"),
        labels=np.array([1, 0, 1]),
        scores=np.array([[0.5, -1.5], [2.0, 1e-30], [-3.0, 7.25]], dtype=np.float32),
        classes=("run", "jump rope"),
        views="25x10",
    )


def arrays_of(scores: ScoreFile) -> dict[str, np.ndarray]:
    return {
        "names": np.array(scores.names),
        "labels": scores.labels,
        "scores": scores.scores,
        "classes": np.array(scores.classes),
        "views": np.array(scores.views),
    }


def assert_one_line(message: str, *words: str) -> None:
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_written_file_reads_back_bit_for_bit(tmp_path: Path, scores: ScoreFile) -> None:
    path = tmp_path / "new" / "folder" / "scores.npz"
    write_scores(path, scores)
    back = read_scores(path)
    assert (back.names, back.classes, back.views) == (scores.names, scores.classes, scores.views)
    assert back.labels.dtype == np.int64
    assert back.scores.dtype == np.float32
    np.testing.assert_array_equal(back.labels, scores.labels)
    np.testing.assert_array_equal(back.scores, scores.scores)
    assert [entry.name for entry in path.parent.iterdir()] == ["scores.npz"], "no temporary file is left"


def test_a_reader_of_the_old_file_keeps_it_whole(tmp_path: Path, scores: ScoreFile) -> None:
    path = tmp_path / "scores.npz"
    write_scores(path, scores)
    with path.open("rb") as reader:
        write_scores(path, replace(scores, views="1x1"))
        old = tmp_path / "old.npz"
        old.write_bytes(reader.read())
    assert read_scores(old).views == "25x10"
    assert read_scores(path).views == "1x1"


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, scores: ScoreFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scores.npz"
    write_scores(path, scores)
    before = path.read_bytes()

    def disk_is_full(file: object, **arrays: np.ndarray) -> None:
        file.write(b"half a file")  # type: ignore[attr-defined]
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", disk_is_full)
    with pytest.raises(OSError, match="no space left"):
        write_scores(path, scores)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.npz"]


def test_a_file_without_clips_reads_back(tmp_path: Path) -> None:
    empty = ScoreFile((), np.zeros(0, np.int64), np.zeros((0, 2), np.float32), ("run", "jump"), "1x1")
    write_scores(tmp_path / "scores.npz", empty)
    assert read_scores(tmp_path / "scores.npz").scores.shape == (0, 2)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_scores(tmp_path / "none.npz")
    assert_one_line(str(error.value), "none.npz", "no such")


def test_a_folder_is_no_score_file(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_scores(tmp_path)
    assert_one_line(str(error.value), str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"name,score\n", b"PK\x03\x04 not a zip", b"\x80\x04\x95"])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scores.npz"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_scores(path)
    assert_one_line(str(error.value), str(path), "not a score file")


def test_one_array_is_no_score_file(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.zeros(3))
    with pytest.raises(InputError) as error:
        read_scores(tmp_path / "scores.npy")
    assert_one_line(str(error.value), "scores.npy", "not a score file")


def test_damage_anywhere_is_noticed_or_harmless(tmp_path: Path, scores: ScoreFile) -> None:
    path = tmp_path / "scores.npz"
    write_scores(path, scores)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            back = read_scores(path)
        except InputError as error:
            assert_one_line(str(error), str(path))
        else:  # some bytes, such as a time stamp, say nothing about the arrays
            assert (back.names, back.classes, back.views) == (scores.names, scores.classes, scores.views)
            np.testing.assert_array_equal(back.labels, scores.labels)
            np.testing.assert_array_equal(back.scores, scores.scores)
    for length in range(0, len(whole), 11):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_scores(path)


@pytest.mark.parametrize("name", ["names", "labels", "scores", "classes", "views"])
def test_a_missing_array_is_named(tmp_path: Path, scores: ScoreFile, name: str) -> None:
    arrays = arrays_of(scores)
    del arrays[name]
    np.savez(tmp_path / "scores.npz", **arrays)
    with pytest.raises(InputError) as error:
        read_scores(tmp_path / "scores.npz")
    assert_one_line(str(error.value), "scores.npz", repr(name))


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("names", np.array([1, 2, 3]), ("'names'", "int64")),
        ("labels", np.array([0.0, 1.0, 0.0]), ("'labels'", "float64")),
        ("scores", np.zeros(3, np.float32), ("'scores'", "(3,)")),
        ("names", np.array(["a", "b"]), ("2 names",)),
        ("labels", np.array([0]), ("labels of shape (1,)",)),
        ("classes", np.array(["run"]), ("1 classes",)),
        ("labels", np.array([0, 1, 2]), ("c.avi", "label 2")),
        ("labels", np.array([0, -1, 0]), ("b.avi", "label -1")),
        ("scores", np.array([[0, 0], [0, np.nan], [0, 0]], np.float32), ("b.avi", "not finite")),
        ("scores", np.array([[0, 0], [0, 0], [np.inf, 0]], np.float32), ("c.avi", "not finite")),
    ],
)
def test_wrong_arrays(tmp_path: Path, scores: ScoreFile, name: str, array: np.ndarray, words: tuple[str, ...]) -> None:
    np.savez(tmp_path / "scores.npz", **(arrays_of(scores) | {name: array}))
    with pytest.raises(InputError) as error:
        read_scores(tmp_path / "scores.npz")
    assert_one_line(str(error.value), "scores.npz", *words)


class Payload:
    """What a pickle would run when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("payload_was_here"),)  # type: ignore[return-value]


def test_pickled_objects_are_refused(tmp_path: Path, scores: ScoreFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = arrays_of(scores) | {"names": np.array([Payload()] * 3, dtype=object)}
    np.savez("scores.npz", allow_pickle=True, **arrays)
    with pytest.raises(InputError):
        read_scores(Path("scores.npz"))
    assert not Path("payload_was_here").exists()


def test_shapes_are_checked_without_a_file(scores: ScoreFile) -> None:
    with pytest.raises(InputError, match=re.escape("scores of shape (3, 2)")):
        replace(scores, classes=("run", "jump", "sit"))
