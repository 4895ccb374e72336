from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from kinet.errors import InputError
from kinet.evaluation.metrics import measure, per_class_table


def names(count: int) -> list[str]:
    return [f"class {index}" for index in range(count)]


@st.composite
def untied(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores (V, C) whose rows have no ties, and labels (V,)."""
    clips, classes = draw(st.integers(1, 40)), draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.permuted(np.tile(np.arange(classes, dtype=np.float32), (clips, 1)), axis=1)
    return scores, rng.integers(0, classes, clips)


@given(untied())
@settings(max_examples=60, deadline=None)
def test_without_ties_all_is_as_torchmetrics_has_it(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = case
    count = scores.shape[1]
    metrics = measure(scores, labels, names(count))
    predicted, true = torch.from_numpy(scores), torch.from_numpy(labels)
    top1 = multiclass_accuracy(predicted, true, count, average="micro")
    top5 = multiclass_accuracy(predicted, true, count, average="micro", top_k=min(5, count))
    recall = multiclass_accuracy(predicted, true, count, average="none")
    assert metrics.top1 == pytest.approx(100 * top1.item(), abs=1e-4)
    assert metrics.top5 == pytest.approx(100 * top5.item(), abs=1e-4)
    assert metrics.mean_class == pytest.approx(100 * recall[true.unique()].mean().item(), abs=1e-4)
    np.testing.assert_array_equal(metrics.confusion, multiclass_confusion_matrix(predicted, true, count).numpy())


@given(untied(), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_order_of_classes_does_not_matter_even_with_ties(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    scores, labels = np.floor(case[0] / 2), case[1]  # ties in pairs
    count = scores.shape[1]
    order = np.random.default_rng(seed).permutation(count)
    metrics = measure(scores, labels, names(count))
    permuted = measure(scores[:, order], np.argsort(order)[labels], names(count))
    assert metrics.summary() == pytest.approx(permuted.summary())
    assert 100 * metrics.confusion.trace() / len(labels) == pytest.approx(metrics.top1)
    assert metrics.confusion.sum() == len(labels)


@pytest.mark.parametrize("count", [2, 6, 400])
def test_equal_scores_are_never_right(count: int) -> None:
    metrics = measure(np.zeros((count, count), np.float32), np.arange(count), names(count))
    assert metrics.top1 == metrics.mean_class == 0
    assert metrics.top5 == (100 if count <= 5 else 0)
    assert metrics.confusion.trace() == 0


def test_a_tie_behind_the_true_class_does_no_harm() -> None:
    metrics = measure(np.array([[3.0, 1, 1, 1, 1, 1, 1]]), np.array([0]), names(7))
    assert metrics.top1 == 100
    # true class third, behind two that are tied
    assert measure(np.array([[5.0, 5, 3, 2, 2, 2, 2]]), np.array([2]), names(7)).top5 == 100


def test_mean_class_counts_classes_that_have_clips() -> None:
    # class 0: 3 of 4 right, class 1: 0 of 1, class 2: predicted once, has no clip, class 3: nothing
    scores = np.eye(4)[[0, 0, 0, 2, 0]]
    metrics = measure(scores, np.array([0, 0, 0, 0, 1]), names(4))
    assert metrics.top1 == pytest.approx(60)
    assert metrics.mean_class == pytest.approx((75 + 0) / 2)
    first, second, third, fourth = metrics.per_class
    assert (first.clips, first.correct, first.confused_with, first.confused) == (4, 75.0, "class 2", 25.0)
    assert (second.clips, second.correct, second.confused_with, second.confused) == (1, 0.0, "class 0", 100.0)
    assert (third.clips, third.correct, third.confused_with, third.confused) == (0, None, None, None)
    assert fourth.clips == 0
    assert metrics.summary() == {"top1": metrics.top1, "top5": 100.0, "mean_class": 37.5, "videos": 5}


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        (np.zeros((0, 3)), np.zeros(0, np.int64), "no clip"),
        (np.zeros((2, 4)), np.array([0, 1]), "3 classes"),
        (np.zeros((2, 3)), np.array([0]), "1 labels"),
        (np.zeros((2, 3)), np.array([0, 3]), "0 to 3"),
        (np.zeros((2, 3)), np.array([-1, 0]), "-1 to 0"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), np.array([0, 1]), "row 1"),
    ],
)
def test_wrong_input_is_one_line(scores: np.ndarray, labels: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        measure(scores, labels, names(3))
    assert "\n" not in str(error.value)


def test_the_table_shows_the_hardest_class_first_and_names_as_they_are() -> None:
    metrics = measure(np.eye(4)[[0, 1, 0]], np.array([0, 1, 1]), ["run", "[bold]jump[/bold]", "sit", "lie"])
    out = io.StringIO()
    Console(file=out, width=100).print(per_class_table(metrics))
    text = out.getvalue()
    assert text.index("[bold]jump[/bold]") < text.rindex("run")
    assert "run (50.0%)" in text
    assert "sit" not in text
    assert "2 classes have no clip" in text
