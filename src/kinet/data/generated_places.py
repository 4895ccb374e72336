"""The places of the generated set, each painted in endless variety: beach, gym, snow, street."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageChops

from kinet.data.generated_brush import SKINS, Brush, Colour, any_colour, jitter, mix, one_of, pick


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
    """An RGB image of ``size`` (H, W): the place, more or less of it, without people."""
    image = Image.new("RGB", size[::-1])
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
    blotches = 128 + rng.normal(0, rng.uniform(3, 9), (size[0] // 12, size[1] // 12, 1)) + rng.normal(0, 3, 3)
    texture = Image.fromarray(np.clip(blotches, 0, 255).astype(np.uint8))
    return ImageChops.add(image, texture.resize(image.size, Image.Resampling.BILINEAR), offset=-128)
