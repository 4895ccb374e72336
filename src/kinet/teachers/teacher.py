"""What a teacher says of a frame, and who can be asked for it.

A teacher is a frozen network that knows people or places (section 3.1 of the paper). What it says of the
whole frame is the frame's pseudo label. Training asks a ``LabelSource``: ``TeacherLabels`` runs the teachers on
the frames at hand, ``kinet.teachers.cache.CachedLabels`` reads what they said before. Both give the same labels
to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from kinet.data.manifest import Clip

Task = Literal["human", "scene"]

MASK_SIZE = (64, 85)
"""Height and width of a mask: a quarter of the paper's 256 x 340 frame. It covers the whole of any frame."""

MASK_LEVELS = 16
"""Probabilities are rounded to this many levels; stored masks shrink 3.5-fold and 0.5 stays a boundary."""

BEST_SCENES = 10
"""Scene classes kept for each frame."""

LABEL_FORMAT = 1
"""Part of every fingerprint: raise it when the labels of an unchanged teacher change."""

Frames = npt.NDArray[np.uint8]
"""(N, H, W, 3) uint8 RGB."""
Masks = npt.NDArray[np.uint8]
"""(N, 64, 85) uint8: 255 x P(person), a multiple of 17."""
SceneClasses = npt.NDArray[np.int32]
"""(N, K) int32, the best first."""
SceneScores = npt.NDArray[np.float16]
"""(N, K) float16 log-probabilities of these classes."""


@dataclass(frozen=True)
class FrameLabels:
    """The pseudo labels of N frames; None where there is no teacher of that task."""

    human: Masks | None
    """(N, 64, 85) uint8: 255 x P(person) over the whole frame, rounded to multiples of 17."""
    scene_classes: SceneClasses | None
    """(N, K) int32: the teacher's K best classes, the best first, so that column 0 is the hard label."""
    scene_scores: SceneScores | None
    """(N, K) float16: their log-probabilities (log-softmax over all classes). ``softmax(scores / T)`` over the K
    is the soft label at temperature T."""


class Teacher(Protocol):
    """A frozen network that labels single frames."""

    @property
    def task(self) -> Task: ...

    @property
    def name(self) -> str:
        """For messages, for example the file's name."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over all that changes a label: weights, settings, ``LABEL_FORMAT``."""

    @property
    def classes(self) -> int:
        """Scene classes; 2 for people (background, person)."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, in order; the numbers where the names are not known."""

    def label_frames(self, frames: Frames) -> Masks | tuple[SceneClasses, SceneScores]:
        """Label ``frames`` (N, H, W, 3) uint8 RGB, each by itself: how they are grouped changes nothing.

        Gives masks (N, 64, 85) uint8 for the task "human", and (classes, scores), (N, K) each, for "scene".
        """


class LabelSource(Protocol):
    """Where training gets pseudo labels from."""

    def labels(self, clip: Clip, indices: npt.NDArray[np.int64], frames: Frames) -> FrameLabels:
        """The labels of ``frames`` (N, H, W, 3) uint8, which are the frames ``indices`` (N,) of ``clip``."""


class TeacherLabels:
    """Runs the teachers on the frames at hand; a ``LabelSource``.

    It can be sent to DataLoader workers where its teachers can.
    """

    def __init__(self, human: Teacher | None = None, scene: Teacher | None = None) -> None:
        self.human = human
        self.scene = scene

    def labels(self, clip: Clip, indices: npt.NDArray[np.int64], frames: Frames) -> FrameLabels:
        """See ``LabelSource.labels``; ``clip`` and ``indices`` are not needed."""
        masks, classes, scores = None, None, None
        if self.human is not None:
            masks = human_labels(self.human, frames)
        if self.scene is not None:
            classes, scores = scene_labels(self.scene, frames)
        return FrameLabels(masks, classes, scores)


def human_labels(teacher: Teacher, frames: Frames) -> Masks:
    """``teacher.label_frames`` of a human teacher."""
    masks = teacher.label_frames(frames)
    assert teacher.task == "human"
    assert not isinstance(masks, tuple)
    return masks


def scene_labels(teacher: Teacher, frames: Frames) -> tuple[SceneClasses, SceneScores]:
    """``teacher.label_frames`` of a scene teacher."""
    labels = teacher.label_frames(frames)
    assert teacher.task == "scene"
    assert isinstance(labels, tuple)
    return labels


def stretch(frame: npt.NDArray[np.uint8], size: tuple[int, int]) -> torch.Tensor:
    """A frame (H, W, 3) uint8 as (1, 3, *size) uint8: bilinear, antialiased."""
    image = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
    return functional.interpolate(image, size, mode="bilinear", antialias=True)


def merge_parts(
    channels: npt.NDArray[np.float32], *, logits: bool, background: int = 0, person: Sequence[int] | None = None
) -> npt.NDArray[np.float32]:
    """P(person) (h, w) of a parser's channels (C, h, w), whatever its parts are.

    One channel is P(person) itself, or its logit. Of several, such as LIP's 19 parts or BodyPix's 24, P(person) is 1
    less the probability of ``background``; or the sum over the channels ``person``, where the others are other things.
    """
    if logits:
        values = torch.from_numpy(np.ascontiguousarray(channels))
        channels = (values.sigmoid() if len(values) == 1 else values.softmax(0)).numpy()
    merged: npt.NDArray[np.float32]
    if person is not None:
        merged = channels[list(person)].sum(axis=0)
    else:
        merged = channels[0] if len(channels) == 1 else 1 - channels[background]
    return merged


def masks_from_probabilities(person: npt.NDArray[np.float32], align_corners: bool = False) -> Masks:
    """P(person) over the whole frame, (N, h, w) float32 at any resolution, as masks (N, 64, 85) uint8.

    With ``align_corners`` the outer rows and columns lie on the frame's border (networks of odd sizes such as 257
    or 473 with strides 16 or 8); otherwise they are the centres of equal tiles.
    """
    maps = torch.from_numpy(np.ascontiguousarray(person))[:, None]
    if align_corners:
        resized = functional.interpolate(maps, MASK_SIZE, mode="bilinear", align_corners=True)
    else:
        resized = functional.interpolate(maps, MASK_SIZE, mode="bilinear", antialias=True)
    levels = np.rint(resized[:, 0].clamp(0, 1).numpy() * (MASK_LEVELS - 1)).astype(np.uint8)
    masks: Masks = levels * np.uint8(255 // (MASK_LEVELS - 1))
    return masks


def best_scenes(
    log_probabilities: npt.NDArray[np.float32], best: int = BEST_SCENES
) -> tuple[SceneClasses, SceneScores]:
    """The ``best`` classes of (N, classes) log-probabilities and their scores; ties by class number."""
    order = np.argsort(-log_probabilities, axis=1, kind="stable")[:, :best]
    scores = np.take_along_axis(log_probabilities, order, axis=1)
    return order.astype(np.int32), scores.astype(np.float16)


def check_frames(frames: Frames) -> None:
    """Raise ValueError unless ``frames`` is (N, H, W, 3) uint8."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames are (N, H, W, 3) uint8, these are {frames.shape} {frames.dtype}")
