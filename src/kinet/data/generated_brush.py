"""Colours and the brush that the generated set is drawn with.

Lengths are fractions of the frame's height: x runs right from 0 to width / height, y runs down from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
T = TypeVar("T")

SKINS: tuple[Colour, ...] = ((245, 210, 185), (225, 180, 145), (190, 140, 105), (140, 95, 65), (95, 65, 50))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    a, b, c = (round(x + (y - x) * share) for x, y in zip(first, second, strict=True))
    return a, b, c


def jitter(rng: np.random.Generator, colour: Colour, amount: int = 18) -> Colour:
    a, b, c = (int(np.clip(x + d, 0, 255)) for x, d in zip(colour, rng.integers(-amount, amount + 1, 3), strict=True))
    return a, b, c


def one_of(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def pick(rng: np.random.Generator, colours: Sequence[Colour], amount: int = 18) -> Colour:
    return jitter(rng, one_of(rng, colours), amount)


def any_colour(rng: np.random.Generator) -> Colour:
    a, b, c = (int(x) for x in rng.integers(20, 236, 3))
    return a, b, c


class Brush:
    """Draws on an image in units of the frame's height, and on a mask as well while one is set."""

    def __init__(
        self, image: Image.Image, unit: float, origin: Point = (0.0, 0.0), mask: Image.Image | None = None
    ) -> None:
        self.unit = unit
        self.origin = origin
        self.width = image.width / unit
        self.height = image.height / unit
        self.targets = [(ImageDraw.Draw(image), False)]
        if mask is not None:
            self.targets.append((ImageDraw.Draw(mask), True))

    def _pixel(self, point: Point) -> Point:
        return (point[0] + self.origin[0]) * self.unit, (point[1] + self.origin[1]) * self.unit

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        corners = [self._pixel((left, top)), self._pixel((right, bottom))]
        for draw, is_mask in self.targets:
            draw.rectangle(corners, fill=255 if is_mask else colour)

    def ellipse(self, centre: Point, across: float, down: float, colour: Colour) -> None:
        """``across`` and ``down`` are the half axes."""
        x, y = centre
        corners = [self._pixel((x - across, y - down)), self._pixel((x + across, y + down))]
        for draw, is_mask in self.targets:
            draw.ellipse(corners, fill=255 if is_mask else colour)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        for draw, is_mask in self.targets:
            draw.polygon([self._pixel(p) for p in points], fill=255 if is_mask else colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        pixels = max(1, round(width * self.unit))
        for draw, is_mask in self.targets:
            draw.line([self._pixel(p) for p in points], fill=255 if is_mask else colour, width=pixels, joint="curve")

    def limb(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A line with round ends and joints."""
        self.line(points, width, colour)
        for point in points:
            self.ellipse(point, width / 2, width / 2, colour)

    def gradient(self, top: float, bottom: float, first: Colour, second: Colour, bands: int = 16) -> None:
        step = (bottom - top) / bands
        for band in range(bands):
            y = top + band * step
            self.box(0, y, self.width, y + step + 0.01, mix(first, second, band / (bands - 1)))
