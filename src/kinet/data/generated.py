"""A small video set made by drawing: people who move their limbs in places.

The action is movement and place together. Every movement occurs in two places and is another action in each;
every place holds two movements: whoever sees only the place, or only the person, is right half of the time
(:data:`ACTIONS`). People and places vary from clip to clip in shape, colour, light and clutter. The true person
masks and scenes are known, so that teachers can be trained and tested on it too. A seed fixes every byte.

Lengths are fractions of the frame's height: x runs right from 0 to width / height, y runs down from 0 to 1.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import cos, pi, radians, sin
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
import numpy as np
from PIL import Image, ImageDraw

from kinet.errors import InputError

SCENES = ("beach", "gym", "snow", "street")
MOVEMENTS = ("crouch", "kick", "reach", "stride")


class Action(NamedTuple):
    name: str
    movement: str
    scene: str


ACTIONS = (
    Action("basketball_shot", "reach", "gym"),
    Action("beach_volleyball", "reach", "beach"),
    Action("building_sandcastle", "crouch", "beach"),
    Action("karate", "kick", "gym"),
    Action("running_for_bus", "stride", "street"),
    Action("skiing", "crouch", "snow"),
    Action("snow_hiking", "stride", "snow"),
    Action("street_football", "kick", "street"),
)
ACTION_NAMES = tuple(action.name for action in ACTIONS)

CLIPS_PER_ACTION = {"train": 30, "val": 4, "test": 10}
SIZE = (96, 128)  # H, W
FRAMES = 16
FRAMES_PER_SECOND = 12

# The first number after the user's seed, which keeps the splits and the teachers' images apart.
STREAMS = {"train": 0, "val": 1, "test": 2, "teacher": 3}
SUPERSAMPLING = 2
MARGIN = 0.12  # of the frame's height, painted around it for the camera to move over

Colour = tuple[int, int, int]
Point = tuple[float, float]
T = TypeVar("T")


# ----------------------------------------------------------------------------------------------------
# Colours and the brush


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


# ----------------------------------------------------------------------------------------------------
# Places


def paint_sky(brush: Brush, rng: np.random.Generator, horizon: float) -> None:
    high, low = [
        ((70, 130, 200), (180, 210, 235)),
        ((120, 130, 145), (190, 195, 200)),
        ((95, 90, 140), (240, 170, 120)),
        ((50, 90, 150), (140, 170, 200)),
        ((160, 190, 215), (225, 225, 220)),
    ][rng.integers(5)]
    brush.gradient(0, horizon, jitter(rng, high), jitter(rng, low))
    cloud = mix(low, (255, 255, 255), rng.uniform(0.2, 0.8))
    for _ in range(rng.integers(0, 4)):
        x, y, size = (
            rng.uniform(0, brush.width),
            rng.uniform(0.02, max(0.05, horizon - 0.1)),
            rng.uniform(0.04, 0.1),
        )
        for _ in range(4):
            brush.ellipse((x + rng.normal(0, size), y + rng.normal(0, size / 5)), size, size / 2.6, cloud)


def paint_beach(brush: Brush, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.32, 0.5)
    shore = horizon + rng.uniform(0.1, 0.22)
    paint_sky(brush, rng, horizon)
    sea = pick(rng, [(40, 120, 160), (60, 160, 170), (80, 110, 115), (35, 75, 130), (120, 150, 160)])
    brush.gradient(horizon, shore, mix(sea, (20, 40, 80), 0.25), mix(sea, (220, 240, 240), 0.25), 8)
    for _ in range(rng.integers(6, 16)):
        x, y, length = (
            rng.uniform(0, brush.width),
            rng.uniform(horizon + 0.02, shore - 0.02),
            rng.uniform(0.05, 0.25),
        )
        brush.line([(x, y), (x + length, y)], 0.006, mix(sea, (255, 255, 255), 0.45))
    for _ in range(rng.integers(0, 3)):
        x, size = rng.uniform(0.1, brush.width), rng.uniform(0.05, 0.12)
        hull = any_colour(rng)
        brush.polygon([(x, horizon + 0.01 - size), (x, horizon), (x + size * 0.6, horizon)], (235, 235, 230))
        brush.polygon(
            [
                (x - size / 2, horizon),
                (x + size * 0.7, horizon),
                (x + size / 2, horizon + 0.025),
                (x - size / 3, horizon + 0.025),
            ],
            hull,
        )
    sand = pick(rng, [(215, 190, 145), (230, 215, 185), (190, 160, 120), (170, 160, 150), (225, 180, 140)])
    xs = np.linspace(0, brush.width, 25)
    waves = shore + 0.015 * np.sin(xs * rng.uniform(4, 9) + rng.uniform(0, 6)) + rng.normal(0, 0.003, 25)
    edge = [(float(x), float(y)) for x, y in zip(xs, waves, strict=True)]
    brush.polygon([*edge, (brush.width, brush.height), (0, brush.height)], mix(sand, (90, 80, 70), 0.35))
    brush.line(edge, 0.014, (240, 245, 245))
    dry = [(x, y + 0.05) for x, y in edge]
    brush.polygon([*dry, (brush.width, brush.height), (0, brush.height)], sand)
    for _ in range(30):
        spot = (rng.uniform(0, brush.width), rng.uniform(shore + 0.08, brush.height))
        brush.ellipse(spot, 0.012, 0.004, jitter(rng, mix(sand, (120, 100, 80), 0.3)))
    for _ in range(rng.integers(0, 4)):
        one_of(rng, [paint_parasol, paint_palm, paint_towel])(brush, rng, shore)


def paint_parasol(brush: Brush, rng: np.random.Generator, ground: float) -> None:
    x, foot, size = rng.uniform(0, brush.width), ground + rng.uniform(0.06, 0.25), rng.uniform(0.1, 0.18)
    first, second = any_colour(rng), any_colour(rng)
    top = foot - size * 2
    brush.line([(x, foot), (x, top)], 0.012, (120, 100, 80))
    for part in range(6):
        left, right = x + size * (part / 3 - 1), x + size * ((part + 1) / 3 - 1)
        brush.polygon([(x, top - size * 0.55), (left, top), (right, top)], first if part % 2 else second)


def paint_palm(brush: Brush, rng: np.random.Generator, ground: float) -> None:
    x, foot, size = rng.uniform(0, brush.width), ground + rng.uniform(0.06, 0.2), rng.uniform(0.45, 0.7)
    lean = rng.uniform(-0.15, 0.15)
    crown = (x + lean, foot - size)
    brush.line([(x, foot), (x + lean * 0.3, foot - size / 2), crown], 0.03, jitter(rng, (120, 90, 60)))
    green = jitter(rng, (60, 120, 50))
    for angle in np.linspace(-0.2, pi + 0.2, 7):
        tip = (crown[0] + 0.17 * cos(angle), crown[1] - 0.1 * sin(angle) + 0.06)
        brush.line(
            [crown, (crown[0] + 0.1 * cos(angle), crown[1] - 0.1 * sin(angle)), tip],
            0.022,
            jitter(rng, green),
        )


def paint_towel(brush: Brush, rng: np.random.Generator, ground: float) -> None:
    x, y, length = rng.uniform(0, brush.width), ground + rng.uniform(0.1, 0.4), rng.uniform(0.12, 0.22)
    brush.polygon([(x, y), (x + length, y), (x + length - 0.05, y + 0.06), (x - 0.05, y + 0.06)], any_colour(rng))


def paint_gym(brush: Brush, rng: np.random.Generator) -> None:
    floor_line = rng.uniform(0.52, 0.68)
    wall = pick(
        rng,
        [(220, 210, 190), (170, 190, 205), (150, 165, 150), (170, 110, 90), (200, 180, 140), (110, 120, 140)],
    )
    floor = pick(rng, [(205, 165, 110), (110, 140, 175), (110, 150, 120), (150, 150, 155), (170, 110, 70)])
    brush.gradient(0, floor_line, mix(wall, (40, 40, 50), rng.uniform(0, 0.3)), wall)
    if rng.random() < 0.6:
        band = floor_line - rng.uniform(0.08, 0.2)
        brush.box(0, band, brush.width, floor_line, mix(wall, any_colour(rng), 0.35))
    for x in np.arange(rng.uniform(0, 0.3), brush.width, rng.uniform(0.3, 0.5)):
        if rng.random() < 0.75:
            brush.box(x, 0.08, x + 0.2, 0.22, pick(rng, [(210, 225, 235), (245, 240, 215), (90, 110, 130)], 8))
            brush.line([(x + 0.1, 0.08), (x + 0.1, 0.22)], 0.008, mix(wall, (0, 0, 0), 0.5))
    for _ in range(rng.integers(1, 4)):
        one_of(rng, [paint_wall_bars, paint_hoop, paint_mat])(brush, rng, floor_line)
    brush.gradient(floor_line, brush.height, mix(floor, (40, 30, 20), 0.25), floor, 8)
    brush.line([(0, floor_line), (brush.width, floor_line)], 0.015, mix(wall, (20, 20, 20), 0.6))
    vanish = rng.uniform(0.2, brush.width - 0.2)
    for foot in np.arange(-1.5, brush.width + 1.5, 0.22):
        start = (vanish + (foot - vanish) * 0.45, floor_line)
        brush.line([start, (float(foot), brush.height)], 0.004, mix(floor, (30, 20, 10), 0.3))
    line = pick(rng, [(240, 240, 235), (200, 50, 50), (40, 60, 140), (230, 200, 60)])
    for _ in range(rng.integers(1, 4)):
        y = rng.uniform(floor_line + 0.05, brush.height)
        brush.line([(0, y), (brush.width, y + rng.uniform(-0.1, 0.1))], 0.016, line)
    for _ in range(rng.integers(0, 3)):
        paint_dumbbells(brush, rng, floor_line)


def paint_wall_bars(brush: Brush, rng: np.random.Generator, ground: float) -> None:
    x, width, top = rng.uniform(0, brush.width - 0.2), rng.uniform(0.2, 0.35), rng.uniform(0.1, 0.25)
    wood = jitter(rng, (150, 105, 60))
    for y in np.arange(top, ground, 0.045):
        brush.line([(x, y), (x + width, y)], 0.012, wood)
    for post in (x, x + width):
        brush.line([(post, top - 0.02), (post, ground)], 0.02, mix(wood, (0, 0, 0), 0.25))


def paint_hoop(brush: Brush, rng: np.random.Generator, ground: float) -> None:
    x, y = rng.uniform(0.1, brush.width - 0.1), rng.uniform(0.14, 0.26)
    brush.box(x - 0.13, y - 0.09, x + 0.13, y + 0.09, (235, 235, 235))
    brush.box(x - 0.05, y - 0.02, x + 0.05, y + 0.05, (200, 60, 50))
    brush.box(x - 0.035, y - 0.005, x + 0.035, y + 0.04, (235, 235, 235))
    for strand in np.linspace(-0.05, 0.05, 4):
        brush.line([(x + strand, y + 0.09), (x + strand * 0.5, y + 0.17)], 0.006, (225, 225, 225))
    brush.line([(x - 0.055, y + 0.09), (x + 0.055, y + 0.09)], 0.015, (220, 90, 30))


def paint_mat(brush: Brush, rng: np.random.Generator, ground: float) -> None:
    x, width, height = rng.uniform(0, brush.width), rng.uniform(0.12, 0.3), rng.uniform(0.2, 0.4)
    colour = pick(rng, [(40, 70, 140), (150, 40, 40), (50, 110, 70), (60, 60, 65)])
    brush.box(x, ground - height, x + width, ground, colour)
    brush.line([(x, ground - height / 2), (x + width, ground - height / 2)], 0.01, mix(colour, (255, 255, 255), 0.4))


def paint_dumbbells(brush: Brush, rng: np.random.Generator, ground: float) -> None:
    x, y, length = rng.uniform(0, brush.width), ground + rng.uniform(0.04, 0.35), rng.uniform(0.1, 0.25)
    brush.line([(x, y), (x + length, y)], 0.012, (150, 150, 155))
    plate = pick(rng, [(40, 40, 45), (150, 40, 40), (40, 60, 130)])
    for end in (x, x + length):
        brush.ellipse((end, y), 0.018, 0.05, plate)


def paint_snow(brush: Brush, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.38, 0.56)
    paint_sky(brush, rng, horizon)
    snow = pick(rng, [(235, 240, 245), (215, 222, 235), (225, 215, 220), (205, 215, 225)], 10)
    for _ in range(rng.integers(1, 5)):
        x, half, top = rng.uniform(0, brush.width), rng.uniform(0.25, 0.55), horizon - rng.uniform(0.12, 0.34)
        rock = pick(rng, [(95, 105, 125), (120, 115, 120), (80, 90, 100)])
        brush.polygon([(x - half, horizon), (x, top), (x + half, horizon)], rock)
        cap = (horizon - top) * rng.uniform(0.25, 0.5)
        side = half * cap / (horizon - top)
        zigzag = [
            (x + side * t, top + cap * (1.0 + (0.25 if i % 2 else -0.2)))
            for i, t in enumerate((0.8, 0.4, 0.0, -0.4, -0.8))
        ]
        brush.polygon([(x, top), *zigzag], snow)
    brush.gradient(horizon, brush.height, mix(snow, (120, 140, 180), 0.25), snow, 8)
    for _ in range(rng.integers(1, 4)):
        y = rng.uniform(horizon + 0.03, brush.height)
        xs = np.linspace(0, brush.width, 16)
        ys = y + 0.035 * np.sin(xs * rng.uniform(2, 5) + rng.uniform(0, 6))
        hill = [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]
        brush.polygon(
            [*hill, (brush.width, brush.height), (0, brush.height)],
            jitter(rng, mix(snow, (140, 155, 190), 0.12), 5),
        )
        brush.line(hill, 0.008, mix(snow, (110, 130, 170), 0.35))
    for _ in range(rng.integers(1, 7)):
        paint_fir(brush, rng, horizon, snow)
    if rng.random() < 0.3:
        paint_cabin(brush, rng, horizon, snow)
    for _ in range(rng.integers(0, 4)):
        x, foot, tall = rng.uniform(0, brush.width), horizon + rng.uniform(0.06, 0.35), rng.uniform(0.15, 0.3)
        brush.line([(x, foot), (x, foot - tall)], 0.01, (60, 60, 70))
        brush.polygon([(x, foot - tall), (x + 0.07, foot - tall + 0.025), (x, foot - tall + 0.05)], any_colour(rng))
    for _ in range(one_of(rng, [0, 0, 40, 90])):
        brush.ellipse((rng.uniform(0, brush.width), rng.uniform(0, brush.height)), 0.006, 0.006, (250, 250, 252))


def paint_fir(brush: Brush, rng: np.random.Generator, ground: float, snow: Colour) -> None:
    x, foot, tall = rng.uniform(0, brush.width), ground + rng.uniform(0.0, 0.2), rng.uniform(0.2, 0.45)
    green = pick(rng, [(40, 75, 55), (55, 85, 75), (35, 60, 60)])
    brush.box(x - 0.012, foot - 0.05, x + 0.012, foot, (80, 60, 45))
    for level in range(3):
        top, half = foot - tall + tall * 0.22 * level, tall * (0.14 + 0.06 * level)
        bottom = top + tall * 0.42
        brush.polygon([(x - half, bottom), (x, top), (x + half, bottom)], green)
        brush.line([(x - half * 0.75, bottom - tall * 0.08), (x, top)], 0.018, mix(snow, green, 0.15))


def paint_cabin(brush: Brush, rng: np.random.Generator, ground: float, snow: Colour) -> None:
    x, foot, size = rng.uniform(0, brush.width - 0.3), ground + rng.uniform(0.02, 0.1), rng.uniform(0.12, 0.2)
    brush.box(x, foot - size, x + 2 * size, foot, jitter(rng, (110, 75, 50)))
    brush.polygon([(x - 0.04, foot - size), (x + size, foot - size * 1.8), (x + 2 * size + 0.04, foot - size)], snow)
    brush.box(x + size * 0.8, foot - size * 0.6, x + size * 1.2, foot - size * 0.25, (240, 210, 120))


def paint_street(brush: Brush, rng: np.random.Generator) -> None:
    kerb = rng.uniform(0.52, 0.66)
    paint_sky(brush, rng, kerb)
    x = -rng.uniform(0, 0.2)
    while x < brush.width:
        width, top = rng.uniform(0.25, 0.5), rng.uniform(0.0, 0.28)
        facade = pick(
            rng,
            [
                (170, 110, 90),
                (190, 180, 165),
                (130, 135, 145),
                (215, 195, 150),
                (100, 110, 130),
                (160, 150, 140),
            ],
        )
        brush.box(x, top, x + width, kerb, facade)
        pane = pick(rng, [(70, 85, 105), (45, 50, 60), (150, 180, 200), (235, 215, 140)])
        step_x, step_y = rng.uniform(0.08, 0.12), rng.uniform(0.09, 0.13)
        for row in np.arange(top + 0.04, kerb - 0.2, step_y):
            for column in np.arange(x + 0.03, x + width - 0.05, step_x):
                brush.box(column, row, column + step_x * 0.5, row + step_y * 0.6, pane)
        if rng.random() < 0.6:
            brush.box(x + 0.03, kerb - 0.14, x + width - 0.03, kerb, mix(facade, (30, 30, 40), 0.6))
            brush.box(x + 0.01, kerb - 0.17, x + width - 0.01, kerb - 0.13, any_colour(rng))
        x += width
    pavement = pick(rng, [(165, 160, 155), (145, 140, 140), (185, 175, 160)])
    road = pick(rng, [(85, 85, 90), (65, 68, 75), (110, 108, 105)])
    road_line = kerb + rng.uniform(0.05, 0.12)
    brush.box(0, kerb, brush.width, road_line, pavement)
    for _ in range(rng.integers(0, 3)):
        paint_car(brush, rng, road_line)
    brush.box(0, road_line, brush.width, brush.height, road)
    brush.line([(0, road_line), (brush.width, road_line)], 0.016, mix(pavement, (240, 240, 235), 0.5))
    marking = pick(rng, [(235, 235, 230), (225, 190, 60)], 10)
    y = rng.uniform(road_line + 0.08, brush.height - 0.05)
    if rng.random() < 0.7:
        for start in np.arange(rng.uniform(-0.2, 0), brush.width, 0.3):
            brush.polygon(
                [(start, y), (start + 0.16, y), (start + 0.15, y + 0.022), (start - 0.01, y + 0.022)], marking
            )
    else:
        zebra = rng.uniform(0, brush.width - 0.4)
        for stripe in range(5):
            left = zebra + stripe * 0.1
            brush.polygon(
                [
                    (left, road_line + 0.03),
                    (left + 0.05, road_line + 0.03),
                    (left + 0.03, brush.height),
                    (left - 0.03, brush.height),
                ],
                marking,
            )
    for _ in range(rng.integers(1, 4)):
        one_of(rng, [paint_lamp, paint_tree, paint_traffic_light])(brush, rng, kerb)


def paint_car(brush: Brush, rng: np.random.Generator, ground: float) -> None:
    x, size, body = rng.uniform(-0.1, brush.width - 0.1), rng.uniform(0.09, 0.13), any_colour(rng)
    brush.polygon(
        [
            (x + size, ground - size * 1.3),
            (x + size * 2.6, ground - size * 1.3),
            (x + size * 3.2, ground - size * 0.7),
            (x + size * 0.4, ground - size * 0.7),
        ],
        (60, 75, 90),
    )
    brush.box(x, ground - size * 0.8, x + size * 3.8, ground - size * 0.1, body)
    for wheel in (0.8, 3.0):
        brush.ellipse((x + size * wheel, ground - size * 0.1), size * 0.33, size * 0.33, (30, 30, 32))


def paint_lamp(brush: Brush, rng: np.random.Generator, ground: float) -> None:
    x, foot, arm = rng.uniform(0, brush.width), ground + rng.uniform(0, 0.06), one_of(rng, [-0.12, 0.12])
    top = foot - rng.uniform(0.4, 0.55)
    brush.line([(x, foot), (x, top), (x + arm, top - 0.02)], 0.018, jitter(rng, (70, 75, 75)))
    brush.ellipse((x + arm, top - 0.015), 0.03, 0.015, (245, 235, 190))


def paint_tree(brush: Brush, rng: np.random.Generator, ground: float) -> None:
    x, foot, size = rng.uniform(0, brush.width), ground + rng.uniform(0, 0.06), rng.uniform(0.09, 0.15)
    top = foot - rng.uniform(0.25, 0.38)
    brush.line([(x, foot), (x, top)], 0.025, (90, 70, 50))
    green = pick(rng, [(70, 110, 60), (120, 130, 60), (160, 110, 50)])
    for _ in range(5):
        brush.ellipse(
            (x + rng.normal(0, size * 0.45), top + rng.normal(0, size * 0.35)),
            size * 0.7,
            size * 0.7,
            jitter(rng, green),
        )


def paint_traffic_light(brush: Brush, rng: np.random.Generator, ground: float) -> None:
    x, foot = rng.uniform(0, brush.width), ground + rng.uniform(0, 0.06)
    top = foot - rng.uniform(0.3, 0.42)
    brush.line([(x, foot), (x, top)], 0.016, (60, 60, 62))
    brush.box(x - 0.028, top - 0.13, x + 0.028, top, (35, 35, 38))
    lit = rng.integers(3)
    for light, colour in enumerate([(230, 50, 40), (240, 190, 50), (60, 200, 90)]):
        on = mix(colour, (30, 30, 30), 0.0 if light == lit else 0.7)
        brush.ellipse((x, top - 0.108 + 0.043 * light), 0.017, 0.017, on)


def paint_clutter(brush: Brush, rng: np.random.Generator) -> None:
    """Things found in every place, some of them with the colours and the outline of a person."""
    for _ in range(rng.integers(0, 3)):
        x, foot = rng.uniform(0, brush.width), rng.uniform(0.65, 1.0)
        colour = pick(rng, SKINS) if rng.random() < 0.4 else any_colour(rng)
        kind = rng.integers(4)
        if kind == 0:  # a post with a disc
            tall = rng.uniform(0.15, 0.4)
            brush.limb([(x, foot), (x, foot - tall)], rng.uniform(0.015, 0.05), any_colour(rng))
            brush.ellipse((x, foot - tall), 0.045, 0.045, colour)
        elif kind == 1:  # a box
            width, tall = rng.uniform(0.06, 0.18), rng.uniform(0.05, 0.15)
            brush.box(x, foot - tall, x + width, foot, colour)
            brush.line([(x, foot - tall), (x + width, foot - tall)], 0.012, mix(colour, (255, 255, 255), 0.4))
        elif kind == 2:  # a bundle of sticks
            for _ in range(3):
                tip = (x + rng.normal(0, 0.12), foot - rng.uniform(0.05, 0.25))
                brush.limb([(x, foot), tip], rng.uniform(0.015, 0.035), jitter(rng, colour, 30))
        else:  # a ball
            radius = rng.uniform(0.025, 0.05)
            brush.ellipse((x, foot - radius), radius, radius, colour)
            brush.line(
                [(x - radius * 0.8, foot - radius), (x + radius * 0.8, foot - radius)],
                0.008,
                mix(colour, (0, 0, 0), 0.4),
            )


PLACES: dict[str, Callable[[Brush, np.random.Generator], None]] = {
    "beach": paint_beach,
    "gym": paint_gym,
    "snow": paint_snow,
    "street": paint_street,
}


def paint_backdrop(scene: str, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """The place without people, supersampled, with :data:`MARGIN` around the frame of ``size`` (H, W)."""
    unit = size[0] * SUPERSAMPLING
    image = Image.new("RGB", (round(size[1] * SUPERSAMPLING + 2 * MARGIN * unit), round(unit * (1 + 2 * MARGIN))))
    # The painters' heights go from 0 to 1 over the whole backdrop.
    brush = Brush(image, image.height)
    PLACES[scene](brush, rng)
    paint_clutter(brush, rng)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Come closer: a part of the place that always keeps the ground people stand on.
    share, left, bottom = rng.uniform(0.55, 1.0), rng.uniform(), rng.uniform(0.85, 1.0)
    width, height = share * image.width, share * image.height
    left, top = left * (image.width - width), max(0.0, bottom * image.height - height)
    image = image.resize(image.size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    blotches = rng.normal(0, rng.uniform(3, 9), (image.height // 12, image.width // 12, 1)) + rng.normal(0, 3, 3)
    texture = Image.fromarray(np.clip(128 + blotches, 0, 255).astype(np.uint8)).resize(
        image.size, Image.Resampling.BILINEAR
    )
    textured = np.asarray(image, dtype=np.int16) + np.asarray(texture, dtype=np.int16) - 128
    return Image.fromarray(np.clip(textured, 0, 255).astype(np.uint8))


# ----------------------------------------------------------------------------------------------------
# People

SKINS: tuple[Colour, ...] = ((245, 210, 185), (225, 180, 145), (190, 140, 105), (140, 95, 65), (95, 65, 50))
HAIRS: tuple[Colour, ...] = (
    (35, 28, 25),
    (80, 55, 35),
    (150, 110, 60),
    (210, 180, 120),
    (130, 130, 130),
    (140, 60, 35),
)


@dataclass(frozen=True, slots=True)
class Pose:
    """Angles in degrees. ``lean``: torso from upright, forward. Thighs and arms: from hanging, forward.

    Knees bend the shin backward, elbows the forearm forward. ``hop``: above the ground, in body heights.
    The first of each pair is the limb away from the viewer.
    """

    lean: float
    thighs: tuple[float, float]
    knees: tuple[float, float]
    arms: tuple[float, float]
    elbows: tuple[float, float]
    hop: float = 0.0


def pose(movement: str, phase: float, strength: float) -> Pose:
    """The pose at ``phase`` (in cycles) of a movement or of ``stand``; ``strength`` scales its swing."""
    s, c = strength * sin(2 * pi * phase), strength * cos(2 * pi * phase)
    if movement == "reach":  # arms overhead, one swings as if to throw
        return Pose(
            -3 + 6 * s,
            (-10 - 6 * c, 10 + 6 * c),
            (8 - 5 * s, 10 + 6 * c),
            (140 + 18 * c, 158 + 32 * s),
            (14 + 8 * s, 22 - 18 * s),
            max(0.0, 0.07 * s),
        )
    if movement == "kick":  # one leg swings up in front, the body leans back
        return Pose(
            -14 - 7 * s,
            (-7 + 3 * s, 72 + 26 * s),
            (8, 30 - 24 * s),
            (48 + 14 * c, -38 - 16 * s),
            (35, 25 + 10 * c),
        )
    if movement == "crouch":  # deep knees, arms low in front
        return Pose(
            38 + 9 * s,
            (88 + 14 * s, 82 + 14 * s),
            (116 + 12 * s, 112 + 12 * s),
            (52 + 16 * c, 60 + 20 * s),
            (18, 14 + 10 * c),
        )
    if movement == "stride":  # running: legs in opposition, elbows bent
        return Pose(
            11,
            (12 - 42 * s, 12 + 42 * s),
            (34 + 38 * c, 34 - 38 * c),
            (50 * s, -50 * s),
            (88, 88),
            0.02 * abs(c),
        )
    assert movement == "stand"
    return Pose(1 + 2 * s, (-5, 5), (3, 3), (-4 + 6 * s, 6 + 5 * c), (10, 12))


@dataclass(frozen=True, slots=True)
class Person:
    """Looks, place and habits of one person through a clip."""

    movement: str
    height: float
    x: float  # of the hips, frame heights
    ground: float  # y of the soles
    facing: int  # 1 to the right, -1 to the left
    narrowing: float  # how far the body is turned away from the side view: x is scaled by it
    girth: float
    phase: float
    cycles: float  # in the whole clip
    strength: float
    habits: tuple[float, ...]  # degrees added to each angle
    drift: float  # frame heights to the front in the whole clip
    skin: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    hair: Colour
    long_sleeves: bool
    long_trousers: bool
    long_hair: bool

    def draw(self, brush: Brush, time: float) -> None:
        """Draw at ``time`` in 0..1 of the clip."""
        now = pose(self.movement, self.phase + self.cycles * time, self.strength)
        lean, far_thigh, near_thigh, far_arm, near_arm, far_elbow, near_elbow = (
            angle + habit
            for angle, habit in zip((now.lean, *now.thighs, *now.arms, *now.elbows), self.habits, strict=True)
        )
        legs = [
            self._chain((0.0, 0.0), [(t, 0.25), (t - k, 0.25)])
            for t, k in zip((far_thigh, near_thigh), now.knees, strict=True)
        ]
        sole = max(y for leg in legs for _, y in leg)
        hip = (self.x + self.facing * self.drift * (time - 0.5), self.ground - sole - now.hop * self.height)
        legs = [[(hip[0] + x, hip[1] + y) for x, y in leg] for leg in legs]
        torso = self._chain(hip, [(180 - lean, 0.31)])
        shoulder = (torso[1][0], torso[1][1] + 0.02 * self.height)
        head = self._chain(torso[1], [(180 - lean * 0.7, 0.085)])[1]
        arms = [
            self._chain(shoulder, [(a, 0.165), (a + e, 0.155)])
            for a, e in ((far_arm, far_elbow), (near_arm, near_elbow))
        ]
        thick = self.girth * self.height
        self._leg(brush, legs[0], thick, 0.3)
        self._arm(brush, arms[0], thick, 0.3)
        brush.limb(torso, thick * 1.65, self.shirt)
        brush.limb([hip, hip], thick * 1.5, self.trousers)
        self._leg(brush, legs[1], thick, 0.0)
        self._head(brush, torso[1], head, thick)
        self._arm(brush, arms[1], thick, 0.0)

    def _chain(self, start: Point, bones: Sequence[tuple[float, float]]) -> list[Point]:
        """Joints from ``start`` on along bones of (angle from hanging, length in body heights)."""
        points = [start]
        for angle, length in bones:
            x, y = points[-1]
            step = length * self.height
            points.append(
                (
                    x + self.facing * self.narrowing * sin(radians(angle)) * step,
                    y + cos(radians(angle)) * step,
                )
            )
        return points

    def _leg(self, brush: Brush, leg: list[Point], thick: float, shade: float) -> None:
        dark = (15, 15, 20)
        brush.limb(leg[:2], thick * 1.15, mix(self.trousers, dark, shade))
        brush.limb(leg[1:], thick * 0.9, mix(self.trousers if self.long_trousers else self.skin, dark, shade))
        toe = (leg[2][0] + self.facing * 0.055 * self.height * self.narrowing, leg[2][1])
        brush.limb([leg[2], toe], thick * 0.7, mix(self.shoes, dark, shade))

    def _arm(self, brush: Brush, arm: list[Point], thick: float, shade: float) -> None:
        dark = (15, 15, 20)
        brush.limb(arm[1:], thick * 0.66, mix(self.shirt if self.long_sleeves else self.skin, dark, shade))
        brush.limb(arm[:2], thick * 0.8, mix(self.shirt, dark, shade))
        brush.ellipse(arm[2], thick * 0.42, thick * 0.42, mix(self.skin, dark, shade))

    def _head(self, brush: Brush, neck: Point, head: Point, thick: float) -> None:
        brush.limb([neck, head], thick * 0.6, mix(self.skin, (0, 0, 0), 0.15))
        size = 0.068 * self.height
        back = -self.facing * size * 0.22
        if self.long_hair:
            brush.limb(
                [(head[0] + back * 2, head[1]), (head[0] + back * 3, head[1] + size * 1.6)],
                size * 0.9,
                self.hair,
            )
        brush.ellipse((head[0] + back, head[1] - size * 0.2), size * 1.02, size * 1.1, self.hair)
        brush.ellipse((head[0] - back * 0.6, head[1] + size * 0.12), size * 0.86, size * 0.98, self.skin)


def draw_person(rng: np.random.Generator, movement: str, width: float) -> Person:
    """A random person in a frame of ``width`` frame heights; who stands is further off."""
    stands = movement == "stand"
    height = rng.uniform(0.3, 0.5) if stands else rng.uniform(0.74, 0.94) * (0.82 if movement == "reach" else 1.0)
    reach = 0.12 if stands else 0.42 * height
    drift = rng.uniform(0.0, 0.35) if movement == "stride" else rng.uniform(-0.05, 0.05)
    return Person(
        movement=movement,
        height=height,
        x=rng.uniform(reach, width - reach),
        ground=rng.uniform(0.72, 0.8) if stands else rng.uniform(0.88, 0.97),
        facing=one_of(rng, [-1, 1]),
        narrowing=rng.uniform(0.75, 1.0),
        girth=rng.uniform(0.09, 0.12),
        phase=rng.uniform(0, 1),
        cycles=rng.uniform(0.8, 2.2),
        strength=rng.uniform(0.75, 1.15),
        habits=tuple(float(x) for x in rng.normal(0, 5, 7)),
        drift=drift,
        skin=pick(rng, SKINS, 10),
        shirt=any_colour(rng),
        trousers=any_colour(rng),
        shoes=any_colour(rng),
        hair=pick(rng, HAIRS, 10),
        long_sleeves=bool(rng.random() < 0.5),
        long_trousers=bool(rng.random() < 0.6),
        long_hair=bool(rng.random() < 0.35),
    )


# ----------------------------------------------------------------------------------------------------
# Clips


@dataclass(frozen=True, slots=True)
class GeneratedClip:
    """One clip, not yet drawn. ``name``: its path in the set's folder, which is its key in the manifests."""

    name: str
    action: int
    seed: tuple[int, ...]

    @property
    def scene(self) -> int:
        return SCENES.index(ACTIONS[self.action].scene)


@dataclass(frozen=True, slots=True)
class RenderedClip:
    """``frames`` (T, H, W, 3) uint8 RGB; ``masks`` (T, H, W) bool: where people are; the labels' indices."""

    frames: np.ndarray
    masks: np.ndarray
    action: int
    scene: int


class Shot:
    """A place, its people and its camera; ``frame(time)`` draws one image of it."""

    def __init__(self, scene: str, movement: str | None, size: tuple[int, int], rng: np.random.Generator) -> None:
        check_size(size)
        self.size = size
        self.rng = rng
        width = size[1] / size[0]
        self.backdrop = paint_backdrop(scene, size, rng)
        self.people = [draw_person(rng, "stand", width) for _ in range(int(rng.random() < 0.25))]
        if movement is not None:
            self.people.append(draw_person(rng, movement, width))
        # Where the camera looks at the clip's start and end, and its shake, within the margin.
        self.camera = rng.uniform(0.2 * MARGIN, 1.8 * MARGIN, (2, 2)) * (1, 0.6) + (0, 0.4 * MARGIN)
        self.shake = rng.uniform(0, 0.012)
        self.ball = (
            rng.uniform(-0.2, width + 0.2, 2),
            rng.uniform(0, 0.9, 2),
            rng.uniform(0.02, 0.05),
            any_colour(rng),
        )
        self.ball_seen = rng.random() < 0.4
        self.light = np.clip(rng.normal(1.0, 0.08, 3) * rng.uniform(0.75, 1.15), 0.55, 1.3)
        self.gamma = rng.uniform(0.8, 1.25)
        self.noise = rng.uniform(2, 7)

    def frame(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """The image (H, W, 3) uint8 and the people's mask (H, W) bool at ``time`` in 0..1 of the clip."""
        height, width = self.size
        unit = height * SUPERSAMPLING
        where = self.camera[0] + (self.camera[1] - self.camera[0]) * time + self.rng.normal(0, self.shake, 2)
        left, top = (round(float(np.clip(w, 0, 2 * MARGIN)) * unit) for w in where)
        image = self.backdrop.crop((left, top, left + width * SUPERSAMPLING, top + unit))
        mask = Image.new("L", image.size)
        brush = Brush(image, unit)
        if self.ball_seen:
            xs, ys, radius, colour = self.ball
            centre = (
                xs[0] + (xs[1] - xs[0]) * time,
                ys[0] + (ys[1] - ys[0]) * time + 0.3 * (time - 0.5) ** 2,
            )
            brush.ellipse(centre, radius, radius, colour)
        for person in self.people:
            x = person.x + person.facing * person.drift * (time - 0.5)
            ground = image.getpixel((int(np.clip(x * unit, 0, image.width - 1)), int(person.ground * unit)))
            assert isinstance(ground, tuple)
            shadow = mix((ground[0], ground[1], ground[2]), (20, 20, 30), 0.35)
            brush.ellipse((x, person.ground), 0.16 * person.height, 0.03 * person.height, shadow)
        both = Brush(image, unit, mask=mask)
        for person in self.people:
            person.draw(both, time)
        small = np.asarray(image.reduce(SUPERSAMPLING))
        flicker = 1 + self.rng.normal(0, 0.02)
        curve = 255 * (np.arange(256) / 255)[:, None] ** self.gamma * self.light * flicker
        lit = np.take_along_axis(curve, small.reshape(-1, 3).astype(np.intp), 0).reshape(small.shape)
        noisy = lit + self.rng.standard_normal(small.shape, dtype=np.float32) * self.noise
        return np.clip(noisy, 0, 255).astype(np.uint8), np.asarray(mask.reduce(SUPERSAMPLING)) >= 128


def check_size(size: tuple[int, int]) -> None:
    if min(size) < 32 or size[0] % 2 or size[1] % 2:
        raise InputError(f"size {size[0]}x{size[1]} of the generated set: give even numbers, 32 or more")


def check_seed(seed: int) -> None:
    if seed < 0:
        raise InputError(f"seed {seed} of the generated set: give 0 or more")


def generated_clips(split: str, clips_per_action: int, seed: int) -> list[GeneratedClip]:
    """The clips of ``train``, ``val`` or ``test``, action by action. No two splits or seeds share a clip."""
    check_seed(seed)
    return [
        GeneratedClip(
            f"{split}/{action.name}/{action.name}_{index:04d}.mp4",
            label,
            (seed, STREAMS[split], label, index),
        )
        for label, action in enumerate(ACTIONS)
        for index in range(clips_per_action)
    ]


def render_clip(clip: GeneratedClip, *, size: tuple[int, int] = SIZE, frames: int = FRAMES) -> RenderedClip:
    """Draw ``frames`` images of ``size`` (H, W). The same clip gives the same pixels."""
    action = ACTIONS[clip.action]
    shot = Shot(action.scene, action.movement, size, np.random.default_rng(clip.seed))
    images, masks = zip(*(shot.frame(time) for time in np.linspace(0, 1, frames)), strict=True)
    return RenderedClip(np.stack(images), np.stack(masks), clip.action, clip.scene)


def teacher_samples(
    count: int, seed: int, *, size: tuple[int, int] = SIZE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Single images for the teachers: images (N, H, W, 3) uint8, person masks (N, H, W) bool, scenes (N,) int64.

    Scenes take turns; any movement occurs in any of them, and one image in ten has nobody who moves. None of
    the images is in a clip of :func:`generated_clips`.
    """
    check_seed(seed)
    images = np.empty((count, *size, 3), np.uint8)
    masks = np.empty((count, *size), bool)
    scenes = np.arange(count, dtype=np.int64) % len(SCENES)
    for index, scene in enumerate(scenes):
        rng = np.random.default_rng((seed, STREAMS["teacher"], index))
        movement = None if rng.random() < 0.1 else one_of(rng, MOVEMENTS)
        images[index], masks[index] = Shot(SCENES[scene], movement, size, rng).frame(rng.uniform())
    return images, masks, scenes


# ----------------------------------------------------------------------------------------------------
# Files


def encode_clip(frames: np.ndarray, path: Path) -> None:
    """Write (T, H, W, 3) uint8 RGB frames as MP4: H.264 where FFmpeg was built with x264, else MPEG-4.

    One thread, and no time of writing in the file: the same frames give the same bytes.
    """
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        if "libx264" in av.codecs_available:
            stream = container.add_stream(
                "libx264", FRAMES_PER_SECOND, options={"preset": "veryfast", "crf": "18", "bf": "0"}
            )
        else:
            stream = container.add_stream("mpeg4", FRAMES_PER_SECOND, options={"qscale": "3", "flags": "+bitexact"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, FRAMES_PER_SECOND)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_generated_set(
    folder: Path,
    *,
    clips_per_action: Mapping[str, int] = CLIPS_PER_ACTION,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    frames: int = FRAMES,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Write ``folder/SPLIT/ACTION/CLIP.mp4`` and the manifests ``folder/SPLIT.csv`` (columns path,label).

    ``clips_per_action``: for each of train, val, test as wanted; ``progress(done, total)`` is called after each
    clip. Returns each split's manifest. Raises InputError for an unknown split, an odd size, a negative seed.
    """
    for split in clips_per_action:
        if split not in ("train", "val", "test"):
            raise InputError(f"split {split!r} of the generated set: give train, val or test")
    splits = {split: generated_clips(split, count, seed) for split, count in clips_per_action.items()}
    total = sum(len(clips) for clips in splits.values())
    done = 0
    manifests = {}
    for split, clips in splits.items():
        for clip in clips:
            path = folder / clip.name
            path.parent.mkdir(parents=True, exist_ok=True)
            encode_clip(render_clip(clip, size=size, frames=frames).frames, path)
            done += 1
            if progress is not None:
                progress(done, total)
        manifests[split] = folder / f"{split}.csv"
        with manifests[split].open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "label"])
            writer.writerows((clip.name, ACTION_NAMES[clip.action]) for clip in clips)
    return manifests
