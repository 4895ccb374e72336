"""Accuracies of a test, over all clips and class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from kinet.errors import InputError


@dataclass(frozen=True, slots=True)
class ClassResult:
    """How the clips of one class were recognised."""

    name: str
    clips: int
    """Test clips of this class; 0 where the test set has none."""
    correct: float | None
    """Per cent of them recognised; ``None`` without clips."""
    confused_with: str | None
    """The wrong class they were most often taken for; ``None`` where none was."""
    confused: float | None
    """Per cent of them taken for that class."""


@dataclass(frozen=True, slots=True, eq=False)
class Metrics:
    """Accuracies in per cent."""

    top1: float
    """Clips whose true class has the highest score."""
    top5: float
    """Clips whose true class is among the five highest scores (all, with at most five classes)."""
    mean_class: float
    """Top-1 of each class, averaged over the classes that have clips."""
    per_class: tuple[ClassResult, ...]
    """One entry a class, in the order of the classes."""
    confusion: NDArray[np.int64]
    """(C, C) clips, rows the true class, columns the class taken for it."""

    @property
    def clips(self) -> int:
        return int(self.confusion.sum())

    def summary(self) -> dict[str, float]:
        return {"top1": self.top1, "top5": self.top5, "mean_class": self.mean_class, "videos": self.clips}


def measure(scores: NDArray[np.floating], labels: NDArray[np.integer], classes: Sequence[str]) -> Metrics:
    """Metrics of ``scores`` (V, C) against ``labels`` (V,), indices into the C ``classes``.

    A class as high as the true one counts as ahead of it: a tie is never a hit, so that scores that are all
    equal are 0% right, whatever the order of the classes. The clip is then taken for the highest other class,
    the first of equals. Without ties all values are those of ``torch.topk`` and torchmetrics, but for
    ``mean_class``: torchmetrics' macro average also counts as 0% the classes that were only ever predicted.

    Raises ``InputError`` without clips, with shapes that disagree, labels outside of the classes, or a score
    that is NaN.
    """
    clips, count = len(labels), len(classes)
    if clips == 0:
        raise InputError("metrics: no clip to measure; check the manifest, and the list of skipped clips")
    if scores.shape != (clips, count) or labels.shape != (clips,):
        raise InputError(f"metrics: {clips} labels and {count} classes, but scores of shape {scores.shape}")
    if labels.min() < 0 or labels.max() >= count:
        raise InputError(f"metrics: labels run from {labels.min()} to {labels.max()}, but there are {count} classes")
    if np.isnan(scores).any():
        raise InputError(f"metrics: row {int(np.isnan(scores).any(axis=1).argmax())} of the scores is not a number")

    rows = np.arange(clips)
    others_ahead = (scores >= scores[rows, labels, None]).sum(axis=1) - 1  # the true class itself is no other
    others = scores.astype(np.float64)
    others[rows, labels] = -np.inf
    taken_for = np.where(others_ahead == 0, labels, others.argmax(axis=1))
    confusion = np.bincount(labels * count + taken_for, minlength=count * count).reshape(count, count)
    in_class, correct = confusion.sum(axis=1), confusion.diagonal()
    occurs = in_class > 0
    return Metrics(
        top1=100 * float((others_ahead < 1).mean()),
        top5=100 * float((others_ahead < 5).mean()),
        mean_class=100 * float((correct[occurs] / in_class[occurs]).mean()),
        per_class=tuple(_class_result(index, classes, confusion[index]) for index in range(count)),
        confusion=confusion.astype(np.int64),
    )


def _class_result(index: int, classes: Sequence[str], row: NDArray[np.integer]) -> ClassResult:
    clips = int(row.sum())
    wrong = row.copy()
    wrong[index] = 0
    most = int(wrong.argmax())
    confused = wrong[most] > 0
    return ClassResult(
        name=classes[index],
        clips=clips,
        correct=100 * float(row[index]) / clips if clips else None,
        confused_with=classes[most] if confused else None,
        confused=100 * float(wrong[most]) / clips if confused else None,
    )


def per_class_table(metrics: Metrics) -> Table:
    """The classes that have clips, the hardest first."""
    table = Table(title=f"top-1 {metrics.top1:.2f}%, mean over classes {metrics.mean_class:.2f}%")
    table.add_column("class")
    table.add_column("clips", justify="right")
    table.add_column("correct %", justify="right")
    table.add_column("most often taken for")
    absent = sum(result.correct is None for result in metrics.per_class)
    if absent:
        table.caption = f"{absent} classes have no clip in this test"
    present = [(result.correct, result) for result in metrics.per_class if result.correct is not None]
    for correct, result in sorted(present, key=lambda entry: entry[0]):
        taken_for = "" if result.confused_with is None else f"{result.confused_with} ({result.confused:.1f}%)"
        table.add_row(Text(result.name), str(result.clips), f"{correct:.1f}", Text(taken_for))
    return table
