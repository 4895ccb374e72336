"""Crops of frames and of their masks: TSN's multi-scale crop for training, fixed views for testing.

A crop is a window on the frame at the protocol's size (``frame_size``, 256 x 340). Frames and masks come at
any resolution and are taken to cover the same whole frame: the window is mapped onto each one's own grid, so
that a frame is resized once, and a mask needs no resizing beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

SCALES = (1.0, 0.875, 0.75, 0.66)
SNAP = 3  # a crop's side nearer than this to the network's input becomes the input's size: no resize
# Quarters (down, right) of the room around the window: tsn-pytorch's `fill_fix_offset`, in its order.
FIVE_OFFSETS = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))
THIRTEEN_OFFSETS = (*FIVE_OFFSETS, (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3))


@dataclass(frozen=True, slots=True)
class Crop:
    """A window in pixels of the frame at ``frame_size``, mirrored left to right afterwards if ``flip``."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def multi_scale_crop(
    frame_size: tuple[int, int],
    input_size: int,
    rng: np.random.Generator,
    *,
    scales: Sequence[float] = SCALES,
    flip: bool = True,
) -> Crop:
    """A random training crop (tsn-pytorch, ``GroupMultiScaleCrop``), flipped with p = 1/2 if ``flip``.

    ``frame_size`` is (height, width). The window's size is one of ``crop_sizes``, its place one of 13.
    """
    sizes = crop_sizes(frame_size, input_size, scales)
    height, width = sizes[rng.integers(len(sizes))]
    down, right = THIRTEEN_OFFSETS[rng.integers(len(THIRTEEN_OFFSETS))]
    return _place(frame_size, height, width, down, right, flip and bool(rng.integers(2)))


def crop_sizes(frame_size: tuple[int, int], input_size: int, scales: Sequence[float] = SCALES) -> list[tuple[int, int]]:
    """The windows' (height, width): the shorter side times each of two scales at most one step apart.

    A side within 3 pixels of ``input_size`` becomes ``input_size``, unless the frame is smaller.
    Four scales give 10 pairs.
    """
    shorter = min(frame_size)
    sides = [int(shorter * scale) for scale in scales]
    sides = [min(input_size, shorter) if abs(side - input_size) < SNAP else side for side in sides]
    return [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]


def view_crops(frame_size: tuple[int, int], input_size: int, crops: int) -> list[Crop]:
    """The fixed crops of the test, windows of ``input_size`` (or of the frame's shorter side, if smaller).

    1: centre. 2: centre, and flipped. 5: four corners and centre. 10: those five, then the five flipped
    (tsn-pytorch, ``GroupOverSample``). Raises ValueError on another number.
    """
    side = min(input_size, *frame_size)
    centre, five = FIVE_OFFSETS[-1:], FIVE_OFFSETS
    views = {
        1: (centre, (False,)),
        2: (centre, (False, True)),
        5: (five, (False,)),
        10: (five, (False, True)),
    }
    if crops not in views:
        raise ValueError(f"{crops} crops: must be 1, 2, 5 or 10")
    offsets, flips = views[crops]
    return [_place(frame_size, side, side, down, right, flip) for flip in flips for down, right in offsets]


def _place(frame_size: tuple[int, int], height: int, width: int, down: int, right: int, flip: bool) -> Crop:
    """tsn-pytorch takes 4 * (room // 4), equal at 256 x 340, elsewhere up to 3 pixels short of the edge."""
    room_down, room_right = frame_size[0] - height, frame_size[1] - width
    return Crop(down * room_down // 4, right * room_right // 4, height, width, flip)


def crop_frames(frames: npt.NDArray[np.uint8], crop: Crop, frame_size: tuple[int, int], output: int) -> Tensor:
    """Crop and resize frames of any resolution in one step, bilinear with antialiasing (as Pillow does it).

    TSN resizes twice, to 256 x 340 and then the crop, and without antialiasing. From frames near that size the
    two hardly differ; from larger ones antialiasing keeps thin structures that the other drops. torch's
    vectorised uint8 path (x86) costs the same for both, and as much as OpenCV's.

    ``frames``: (N, H, W, C) uint8, the whole frame. Returns (N, C, output, output) uint8 in channels_last memory
    format, the order of the pixels in ``frames``. The window is rounded to whole pixels of ``frames``; one of the
    output's size is copied without resizing (or, where it is the whole frame, shares its memory).
    """
    top, bottom = _to_pixels(crop.top, crop.height, frames.shape[1], frame_size[0])
    left, right = _to_pixels(crop.left, crop.width, frames.shape[2], frame_size[1])
    window = torch.from_numpy(frames[:, top:bottom, left:right]).permute(0, 3, 1, 2)
    if window.shape[-2:] != (output, output):
        window = functional.interpolate(
            window, size=(output, output), mode="bilinear", antialias=True, align_corners=False
        )
    if crop.flip:
        window = window.flip(3)
    return window.contiguous(memory_format=torch.channels_last)


def stack_frames(crops: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``torch.stack`` along a dimension before the last three, which keep ``crop_frames``' memory order.

    torch.stack itself keeps that order for some shapes and changes it for others.
    """
    return torch.stack([crop.movedim(-3, -1) for crop in crops], dim).movedim(-1, -3)


def _to_pixels(start: int, length: int, pixels: int, size: int) -> tuple[int, int]:
    """[start, start + length) of ``size`` as whole pixels [first, last) of ``pixels``, at least one."""
    first = min(round(start * pixels / size), pixels - 1)
    return first, max(first + 1, min(round((start + length) * pixels / size), pixels))


def crop_masks(masks: Tensor, crop: Crop, frame_size: tuple[int, int], output: int) -> Tensor:
    """The same window of masks that cover the whole frame at any resolution, as ``crop_frames`` would cut it.

    ``masks``: (N, h, w) uint8. Returns (N, output, output) uint8. The window's edges may fall inside a mask's
    pixels: each output pixel is the triangle-weighted mean around its exact centre, as antialiased bilinear
    interpolation does for whole pixels, so frame and mask stay aligned.
    """
    rows = _resampling(crop.top, crop.height, frame_size[0], masks.shape[1], output)
    columns = _resampling(crop.left, crop.width, frame_size[1], masks.shape[2], output)
    if crop.flip:
        columns = columns.flip(0)
    return (rows @ masks.float() @ columns.T).round().to(torch.uint8)


def _resampling(start: int, length: int, size: int, pixels: int, output: int) -> Tensor:
    """(output, pixels) weights that resample [start, start + length) of ``size``; each row adds up to 1."""
    step = length * pixels / size / output  # pixels to an output pixel
    centres = start * pixels / size + (torch.arange(output) + 0.5) * step
    distance = (torch.arange(pixels) + 0.5) - centres[:, None]
    weights = (1 - distance.abs() / max(step, 1)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)
