"""How far a training is, and the running means of its log."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

Totals = dict[str, tuple[float, int]]


@dataclass
class Position:
    """How far a training is."""

    epoch: int = 0
    """Epochs done, validation and all."""
    clips: int = 0
    """Clips done of the next epoch's order, on all ranks."""
    step: int = 0
    """Steps done in all."""
    best_top1: float = -1.0
    """Highest validation top-1 so far, in per cent."""
    best_epoch: int = 0
    seconds: float = 0.0
    """Time spent training and validating, without set-up and the writing of checkpoints."""
    step_seconds: float = 0.0
    """Of these, in training steps."""
    wait_seconds: float = 0.0
    """Of those, waiting for the step's clips."""

    @property
    def data_wait(self) -> float:
        """The share of the training steps' time that went into waiting for clips."""
        return self.wait_seconds / self.step_seconds if self.step_seconds else 0.0


class Means:
    """Running means of logged values."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] += value
            self.counts[name] += 1

    def mean(self, name: str) -> float:
        return self.sums[name] / self.counts[name] if name in self.counts else math.nan

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: self.mean(name) for name in self.sums}
        self.sums.clear()
        self.counts.clear()
        return means

    def totals(self) -> Totals:
        """Sum and count of each value."""
        return {name: (self.sums[name], self.counts[name]) for name in self.sums}


def merged(parts: Iterable[Totals]) -> Means:
    """The means over all parts."""
    means = Means()
    for totals in parts:
        for name, (total, count) in totals.items():
            means.sums[name] += total
            means.counts[name] += count
    return means
