"""Labels that teach nothing get one line with the share; others get none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kinet.teachers.plausible import MaskShares, SceneShares
from kinet.teachers.teacher import MASK_SIZE

TEACHER: Any = SimpleNamespace(name="t.onnx", class_names=("sea", "wood", "sand"))


def masks(*levels: int) -> np.ndarray:
    """One mask a level, the same all over."""
    return np.array(levels, np.uint8).reshape(-1, 1, 1) * np.ones(MASK_SIZE, np.uint8)


def blob(*, top: int) -> np.ndarray:
    mask = np.zeros((1, *MASK_SIZE), np.uint8)
    mask[0, top : top + 9, 30:40] = 255
    return mask


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ([masks(*[119] * 40)], "its masks show no person in 100% of the 40 frames, so they teach nothing;"),
        ([masks(*[0] * 39), blob(top=3)], "its masks show no person in 97.5% of the 40 frames, so they teach little;"),
        ([masks(*[136] * 2)], "its masks show nothing but person in 100% of the 2 frames"),
        ([blob(top=3)] * 5, "its mask is the same in 100% of the 5 frames, so it teaches nothing;"),
        ([blob(top=3)] * 5 + [blob(top=4)], None),
        ([masks(*[0] * 19), blob(top=3)], None),  # 95% are not more than 95%
        ([blob(top=3)], None),
        ([masks()], None),
    ],
)
def test_masks(parts: list[np.ndarray], line: str | None) -> None:
    together, one_by_one = MaskShares(), MaskShares()
    together.add(np.concatenate(parts))
    for part in parts:
        one_by_one.add(part)
    warning = together.warning(TEACHER)
    assert warning == one_by_one.warning(TEACHER)
    assert (warning is None) == (line is None)
    if warning is not None and line is not None:
        assert warning.startswith(f"t.onnx: {line}")
        assert "\n" not in warning


def test_share_of_people() -> None:
    shares = MaskShares()
    shares.add(np.concatenate([masks(0, 255), blob(top=0)]))
    assert (shares.frames, shares.empty, shares.full) == (3, 1, 1)
    assert shares.person == pytest.approx(1 + 90 / (64 * 85))


@pytest.mark.parametrize(
    ("best", "line"),
    [
        ([1] * 30, "its scene is wood in 100% of the 30 frames, so it teaches nothing;"),
        ([1] * 39 + [2], "its scene is wood in 97.5% of the 40 frames, so it teaches little;"),
        ([2] * 4999 + [0], "its scene is sand in 99.9% of the 5000 frames, so it teaches little;"),
        ([0] * 19 + [1], None),
        ([0], None),
        ([], None),
    ],
)
def test_scenes(best: list[int], line: str | None) -> None:
    shares = SceneShares()
    classes = np.array([[first, (first + 1) % 3] for first in best], np.int32).reshape(-1, 2)
    shares.add(classes[:7])
    shares.add(classes[7:])
    warning = shares.warning(TEACHER)
    assert (warning is None) == (line is None)
    assert line is None or (warning is not None and warning.startswith(f"t.onnx: {line}") and "\n" not in warning)
