"""The people of the generated set: what they look like and how they move (crouch, kick, reach, stride)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, radians, sin

import numpy as np

from kinet.data.generated_brush import SKINS, Brush, Colour, Point, any_colour, mix, one_of, pick

HAIRS: tuple[Colour, ...] = (
    (35, 28, 25),
    (80, 55, 35),
    (150, 110, 60),
    (210, 180, 120),
    (130, 130, 130),
    (140, 60, 35),
)
DARK: Colour = (15, 15, 20)  # what the limbs away from the viewer are mixed with
MOVEMENTS = ("crouch", "kick", "reach", "stride")


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

    def hip_x(self, time: float) -> float:
        return self.x + self.facing * self.drift * (time - 0.5)

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
        hip = (self.hip_x(time), self.ground - sole - now.hop * self.height)
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
        brush.ellipse(hip, thick * 0.75, thick * 0.75, self.trousers)
        self._leg(brush, legs[1], thick, 0.0)
        self._head(brush, torso[1], head, thick)
        self._arm(brush, arms[1], thick, 0.0)

    def _chain(self, start: Point, bones: Sequence[tuple[float, float]]) -> list[Point]:
        """Joints from ``start`` on along bones of (angle from hanging, length in body heights)."""
        points = [start]
        for angle, length in bones:
            x, y = points[-1]
            ahead, down = length * sin(radians(angle)), length * cos(radians(angle))
            points.append((x + self.facing * self.narrowing * ahead * self.height, y + down * self.height))
        return points

    def _leg(self, brush: Brush, leg: list[Point], thick: float, shade: float) -> None:
        brush.limb(leg[:2], thick * 1.15, mix(self.trousers, DARK, shade))
        brush.limb(leg[1:], thick * 0.9, mix(self.trousers if self.long_trousers else self.skin, DARK, shade))
        toe = (leg[2][0] + self.facing * 0.055 * self.height * self.narrowing, leg[2][1])
        brush.limb([leg[2], toe], thick * 0.7, mix(self.shoes, DARK, shade))

    def _arm(self, brush: Brush, arm: list[Point], thick: float, shade: float) -> None:
        brush.limb(arm[1:], thick * 0.66, mix(self.shirt if self.long_sleeves else self.skin, DARK, shade))
        brush.limb(arm[:2], thick * 0.8, mix(self.shirt, DARK, shade))
        brush.ellipse(arm[2], thick * 0.42, thick * 0.42, mix(self.skin, DARK, shade))

    def _head(self, brush: Brush, neck: Point, head: Point, thick: float) -> None:
        brush.limb([neck, head], thick * 0.6, mix(self.skin, (0, 0, 0), 0.15))
        size = 0.068 * self.height
        back = -self.facing * size * 0.22
        if self.long_hair:
            tip = (head[0] + back * 3, head[1] + size * 1.6)
            brush.limb([(head[0] + back * 2, head[1]), tip], size * 0.9, self.hair)
        brush.ellipse((head[0] + back, head[1] - size * 0.2), size * 1.02, size * 1.1, self.hair)
        brush.ellipse((head[0] - back * 0.6, head[1] + size * 0.12), size * 0.86, size * 0.98, self.skin)


def draw_person(rng: np.random.Generator, movement: str, width: float) -> Person:
    """A random person in a frame of ``width`` frame heights; who stands is further off."""
    stands = movement == "stand"
    height = rng.uniform(0.3, 0.5) if stands else rng.uniform(0.74, 0.94) * (0.82 if movement == "reach" else 1.0)
    drift = rng.uniform(0.0, 0.35) if movement == "stride" else rng.uniform(-0.05, 0.05)
    return Person(
        movement=movement,
        height=height,
        x=rng.uniform(0.1, width - 0.1) if stands else width / 2 + rng.uniform(-0.16, 0.16),
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
