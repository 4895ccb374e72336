"""The common form of masks and scene labels, and labels made as frames come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet.data.manifest import Clip
from kinet.teachers.teacher import (
    MASK_SIZE,
    Frames,
    Masks,
    SceneClasses,
    SceneScores,
    Task,
    TeacherLabels,
    best_scenes,
    check_frames,
    masks_from_probabilities,
)

CLIP = Clip(Path("a.avi"), 0, "a.avi")


class BrightnessTeacher:
    """Says "person" where the frames are bright."""

    task: Task = "human"
    name = "brightness"
    fingerprint = "b" * 64
    classes = 2
    class_names = ("background", "person")

    def label_frames(self, frames: Frames) -> Masks:
        return masks_from_probabilities(frames.mean(axis=3, dtype=np.float32) / 255)


class ColourTeacher:
    """Scene is the brightest of red, green and blue."""

    task: Task = "scene"
    name = "colour"
    fingerprint = "c" * 64
    classes = 3
    class_names = ("red", "green", "blue")

    def label_frames(self, frames: Frames) -> tuple[SceneClasses, SceneScores]:
        return best_scenes(np.log(frames.mean(axis=(1, 2), dtype=np.float32) + 1) - 9, best=2)


@settings(deadline=None)
@given(st.floats(0, 1, width=32), st.integers(1, 300), st.integers(1, 300))
def test_even_mask_keeps_its_probability(probability: float, height: int, width: int) -> None:
    mask = masks_from_probabilities(np.full((1, height, width), probability, np.float32))
    assert mask.shape == (1, *MASK_SIZE)
    assert mask.dtype == np.uint8
    assert (mask % 17 == 0).all()
    assert np.abs(mask - 255 * probability).max() <= 8.5 + 1e-3


@pytest.mark.parametrize(("probability", "person"), [(0.4999, False), (0.5, True), (0.5001, True)])
def test_rounding_does_not_move_the_decision(probability: float, person: bool) -> None:
    mask = masks_from_probabilities(np.full((1, *MASK_SIZE), probability, np.float32))
    assert ((mask >= 128) == person).all()


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (128, 170), (256, 340), (473, 473)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_mask_lies_where_the_network_saw_it(size: tuple[int, int], align_corners: bool) -> None:
    # P(person) rises linearly over the frame, with its samples at the places that the two grids stand for
    height, width = size
    if align_corners:
        ys, xs = np.linspace(0, 1, height), np.linspace(0, 1, width)
    else:
        ys, xs = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    probability = (0.6 * ys[:, None] + 0.4 * xs).astype(np.float32)
    mask = masks_from_probabilities(probability[None], align_corners)[0]
    if align_corners:
        rows, columns = np.linspace(0, 1, MASK_SIZE[0]), np.linspace(0, 1, MASK_SIZE[1])
    else:
        rows, columns = ((np.arange(side) + 0.5) / side for side in MASK_SIZE)
    expected = 255 * (0.6 * rows[:, None] + 0.4 * columns)
    inner = (slice(4, -4), slice(4, -4))  # at the border a tile has no neighbour to rise to
    assert np.abs(mask[inner] - expected[inner]).max() <= 8.5 + 2


def test_best_scenes_are_the_best_in_order() -> None:
    rng = np.random.default_rng(0)
    logs = np.log(rng.dirichlet(np.ones(30), 20)).astype(np.float32)
    classes, scores = best_scenes(logs, 5)
    assert classes.dtype == np.int32
    assert scores.dtype == np.float16
    for row, kept, values in zip(logs, classes, scores, strict=True):
        assert list(kept) == sorted(range(30), key=lambda c: -row[c])[:5]
        assert np.allclose(values, row[kept], rtol=1e-3)


def test_best_scenes_of_few_classes_are_all_and_ties_go_by_number() -> None:
    classes, scores = best_scenes(np.array([[-1.0, -0.5, -1.0]], np.float32), best=10)
    assert classes.tolist() == [[1, 0, 2]]
    assert scores.tolist() == [[-0.5, -1.0, -1.0]]


def test_scores_give_back_the_teachers_probabilities() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (4, 10)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    classes, scores = best_scenes(np.log(probabilities), best=10)
    for temperature in (1.0, 2.5):
        kept = np.exp(scores.astype(np.float32) / temperature)
        kept /= kept.sum(1, keepdims=True)
        soft = np.exp(logits / temperature) / np.exp(logits / temperature).sum(1, keepdims=True)
        assert np.allclose(kept, np.take_along_axis(soft, classes.astype(np.int64), 1), atol=5e-3)


def test_labels_come_from_the_teachers_there_are() -> None:
    frames = np.random.default_rng(2).integers(0, 256, (3, 12, 20, 3), np.uint8)
    indices = np.array([4, 0, 9])
    human, scene = BrightnessTeacher(), ColourTeacher()
    both = TeacherLabels(human, scene).labels(CLIP, indices, frames)
    assert both.human is not None
    assert both.scene_classes is not None
    assert both.scene_scores is not None
    assert np.array_equal(both.human, human.label_frames(frames))
    assert np.array_equal(both.scene_classes, scene.label_frames(frames)[0])
    assert np.array_equal(both.scene_scores, scene.label_frames(frames)[1])
    assert TeacherLabels(scene=scene).labels(CLIP, indices, frames).human is None
    only_human = TeacherLabels(human=human).labels(CLIP, indices, frames)
    assert only_human.scene_classes is None
    assert only_human.scene_scores is None


@pytest.mark.parametrize("frames", [np.zeros((2, 4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8)])
def test_frames_of_another_form_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        check_frames(frames)
