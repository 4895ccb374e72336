"""Whether the labels of a set can teach anything: counts over all of its frames, and a line where they can't."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kinet.teachers.teacher import MASK_SIZE, Teacher

PERSON = 128
"""The least value of a mask's pixel that counts as person: P(person) of one half."""
ALMOST_ALL = 0.95
"""Share of the frames above which a label that they have in common is worth a line."""


@dataclass
class MaskShares:
    """What the masks of a set have in common."""

    frames: int = 0
    empty: int = 0
    """Frames without a person."""
    full: int = 0
    """Frames that are person all over."""
    person: float = 0.0
    """Sum over the frames of the share of the frame that is person."""
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(MASK_SIZE, np.int64))
    """(64, 85) frames in which this pixel is person."""

    def add(self, masks: npt.NDArray[np.generic]) -> None:
        """Count masks (N, 64, 85) uint8."""
        person = np.asarray(masks, np.uint8) >= PERSON
        self.frames += len(person)
        self.empty += int((~person.any(axis=(1, 2))).sum())
        self.full += int(person.all(axis=(1, 2)).sum())
        self.person += float(person.mean(axis=(1, 2)).sum())
        self.pixels += person.sum(axis=0)

    def warning(self, teacher: Teacher) -> str | None:
        """One line where the masks say next to nothing; None where they may be good."""
        for count, what in ((self.empty, "no person"), (self.full, "nothing but person")):
            if count > ALMOST_ALL * self.frames:
                return (
                    f"{teacher.name}: its masks show {what} in {share(count, self.frames)} of the {self.frames} frames,"
                    f" so they teach {'nothing' if count == self.frames else 'little'}; check the teacher's settings"
                    " (scale, channels, activation, output, background, person) and whether the clips show people"
                )
        if self.frames > 1 and np.isin(self.pixels, (0, self.frames)).all():
            return (
                f"{teacher.name}: its mask is the same in 100% of the {self.frames} frames, so it teaches nothing;"
                " check the teacher's settings (scale, channels, activation, output, background, person)"
            )
        return None


@dataclass
class SceneShares:
    """How the best scenes of a set are spread."""

    frames: int = 0
    counts: Counter[int] = field(default_factory=Counter)
    """Frames by best class."""

    def add(self, classes: npt.NDArray[np.generic]) -> None:
        """Count classes (N, K), the best first."""
        self.frames += len(classes)
        self.counts.update(int(best) for best in np.asarray(classes)[:, 0])

    def warning(self, teacher: Teacher) -> str | None:
        """One line where nearly all frames have the same scene; None otherwise."""
        if self.frames < 2:
            return None
        ((best, count),) = self.counts.most_common(1)
        if count <= ALMOST_ALL * self.frames:
            return None
        return (
            f"{teacher.name}: its scene is {teacher.class_names[best]} in {share(count, self.frames)} of the"
            f" {self.frames} frames, so it teaches {'nothing' if count == self.frames else 'little'}; check the"
            " teacher's settings (scale, channels, activation) and whether the clips show other places"
        )


def share(count: int, of: int) -> str:
    """Per cent, and 100% only where it is all of them."""
    return "100%" if count == of else f"{min(100 * count / of, 99.9):.1f}%"
