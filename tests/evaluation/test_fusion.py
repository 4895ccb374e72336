from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet.cli import main
from kinet.errors import InputError
from kinet.evaluation.fusion import fuse
from kinet.evaluation.scores import ScoreFile, read_scores, write_scores

SOURCES = ["rgb.npz", "flow.npz"]


def made(seed: int, clips: int = 12, classes: int = 4) -> ScoreFile:
    rng = np.random.default_rng(seed)
    return ScoreFile(
        names=tuple(f"clip {number}.avi" for number in range(clips)),
        labels=np.arange(clips) % classes,
        scores=rng.normal(size=(clips, classes)).astype(np.float32),
        classes=tuple(f"class {number}" for number in range(classes)),
        views="25x10",
    )


def shuffled(file: ScoreFile, seed: int) -> ScoreFile:
    """The same scores, clips and classes in another order."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(file.names)), rng.permutation(len(file.classes))
    return ScoreFile(
        names=tuple(file.names[row] for row in rows),
        labels=np.argsort(columns)[file.labels[rows]],
        scores=file.scores[np.ix_(rows, columns)],
        classes=tuple(file.classes[column] for column in columns),
        views=file.views,
    )


@given(st.integers(0, 1000), st.lists(st.floats(0.1, 10), min_size=2, max_size=2))
def test_fused_scores_are_the_weighted_mean_whatever_the_order(seed: int, weights: list[float]) -> None:
    rgb, flow = made(seed), made(seed + 1)
    fused = fuse([rgb, shuffled(flow, seed)], weights, SOURCES)
    expected = (weights[0] * rgb.scores + weights[1] * flow.scores) / sum(weights)
    np.testing.assert_allclose(fused.scores, expected, rtol=1e-5, atol=1e-6)
    assert (fused.names, fused.classes) == (rgb.names, rgb.classes)
    np.testing.assert_array_equal(fused.labels, rgb.labels)


def test_a_weight_of_nought_leaves_the_other_file() -> None:
    rgb, flow = made(0), made(1)
    np.testing.assert_array_equal(fuse([rgb, flow], [0, 3], SOURCES).scores, flow.scores)


def test_three_files_fuse() -> None:
    files = [made(seed) for seed in range(3)]
    fused = fuse(files, [1, 1, 2], ["a", "b", "c"])
    np.testing.assert_allclose(
        fused.scores, (files[0].scores + files[1].scores + 2 * files[2].scores) / 4, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(made(1), names=(*made(1).names[:-1], "else.avi")), ["2 clip names", "clip 11.avi", "flow.npz"]),
        (made(1, clips=11), ["1 clip names", "clip 11.avi"]),
        (replace(made(1), classes=("class 0", "class 1", "class 2", "jump")), ["2 class names", "class 3"]),
        (replace(made(1), names=("clip 1.avi", *made(1).names[1:])), ["clip clip 1.avi twice"]),
        (replace(made(1), labels=(made(1).labels + 1) % 4), ["clip 0.avi is of class class 0", "class 1"]),
    ],
)
def test_files_that_do_not_speak_of_the_same_are_refused(other: ScoreFile, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        fuse([made(0), other], [1, 1], SOURCES)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [float("inf"), 1.0]])
def test_unfit_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(InputError, match="--weights"):
        fuse([made(0), made(1)], weights, SOURCES)


def test_one_file_is_refused() -> None:
    with pytest.raises(InputError, match="two score files"):
        fuse([made(0)], [1], ["a"])


def test_the_command_writes_what_a_test_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("rgb", 0), ("flow", 1)):
        write_scores(tmp_path / f"{name}.npz", made(seed))
    paths = [str(tmp_path / source) for source in SOURCES]
    assert main(["fuse", *paths, "--weights", "1", "1.5", "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [part["weight"] for part in result["fused"]] == [1, 1.5]
    assert result["videos"] == 12
    expected = fuse([made(0), made(1)], [1, 1.5], SOURCES)
    np.testing.assert_array_equal(read_scores(Path(result["scores"])).scores, expected.scores)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"scores.npz", "result.json", "per_class.csv", "confusion.csv"}


def test_a_missing_file_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scores(tmp_path / "rgb.npz", made(0))
    assert main(["fuse", str(tmp_path / "rgb.npz"), str(tmp_path / "none.npz")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "none.npz" in line
