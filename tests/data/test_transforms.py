"""Crops: TSN's windows, and frames and masks that stay aligned at any resolution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from kinet.data.transforms import (
    THIRTEEN_OFFSETS,
    Crop,
    crop_frames,
    crop_masks,
    crop_sizes,
    multi_scale_crop,
    stack_frames,
    view_crops,
)

PAPER = (256, 340)


def random_frames(shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def windows(frame_size: tuple[int, int], smallest: int = 1) -> st.SearchStrategy[Crop]:
    """Any window of a frame."""

    def inside(sizes: tuple[int, int]) -> st.SearchStrategy[Crop]:
        height, width = sizes
        top, left = st.integers(0, frame_size[0] - height), st.integers(0, frame_size[1] - width)
        return st.builds(Crop, top, left, st.just(height), st.just(width), st.booleans())

    sides = st.tuples(st.integers(smallest, frame_size[0]), st.integers(smallest, frame_size[1]))
    return sides.flatmap(inside)


# Windows


def test_ten_sizes_at_the_papers_frame() -> None:
    allowed = {256: (256, 224), 224: (256, 224, 192), 192: (224, 192, 168), 168: (192, 168)}
    expected = {(height, width) for height, widths in allowed.items() for width in widths}
    sizes = crop_sizes(PAPER, 224)
    assert len(sizes) == 10
    assert set(sizes) == expected


def test_flows_three_scales_give_seven_sizes() -> None:
    assert len(crop_sizes(PAPER, 224, (1, 0.875, 0.75))) == 7


@pytest.mark.parametrize(("side", "snapped"), [(226, 224), (227, 227), (225, 224), (224, 224), (223, 223), (220, 220)])
def test_sides_near_the_input_become_the_input_if_they_fit(side: int, snapped: int) -> None:
    assert crop_sizes((side, 400), 224, (1.0,)) == [(snapped, snapped)]


def test_a_smaller_side_snaps_up() -> None:
    assert crop_sizes((256, 340), 193, (1.0, 0.75)) == [(256, 256), (256, 193), (193, 256), (193, 193)]


def test_thirteen_offsets() -> None:
    """tsn-pytorch's `fill_fix_offset(True, 340, 256, 224, 224)`, as (left, top): its steps are 29 and 8."""
    expected = [
        *[(0, 0), (116, 0), (0, 32), (116, 32), (58, 16)],
        *[(0, 16), (116, 16), (58, 32), (58, 0)],
        *[(29, 8), (87, 8), (29, 24), (87, 24)],
    ]
    assert [(29 * right, 8 * down) for down, right in THIRTEEN_OFFSETS] == expected


def test_every_combination_is_drawn_and_evenly() -> None:
    rng = np.random.default_rng(0)
    draws = [multi_scale_crop(PAPER, 224, rng) for _ in range(13_000)]
    # 130 windows; (256, h) has less room, so that some offsets of its 13 fall together
    assert {(c.height, c.width) for c in draws} == set(crop_sizes(PAPER, 224))
    for height, width in crop_sizes(PAPER, 224):
        places = {(c.top, c.left) for c in draws if (c.height, c.width) == (height, width)}
        tops, lefts = ({room * k // 4 for k in range(5)} for room in (256 - height, 340 - width))
        assert places <= {(top, left) for top in tops for left in lefts}
        assert len(places) == (13 if height < 256 else 5)
    counts = [sum((c.height, c.width) == size for c in draws) for size in crop_sizes(PAPER, 224)]
    assert np.abs(np.array(counts) - 1300).max() < 5 * np.sqrt(1300)
    assert abs(sum(c.flip for c in draws) - 6500) < 5 * np.sqrt(3250)


def test_no_flip_unless_asked_for() -> None:
    rng = np.random.default_rng(0)
    assert not any(multi_scale_crop(PAPER, 224, rng, flip=False).flip for _ in range(50))


@given(st.tuples(st.integers(8, 500), st.integers(8, 500)), st.integers(8, 300), st.integers(0, 2**32))
def test_windows_lie_in_the_frame(frame_size: tuple[int, int], input_size: int, seed: int) -> None:
    random_crop = multi_scale_crop(frame_size, input_size, np.random.default_rng(seed))
    for crop in [random_crop, *view_crops(frame_size, input_size, 10)]:
        assert 0 <= crop.top <= crop.top + crop.height <= frame_size[0]
        assert 0 <= crop.left <= crop.left + crop.width <= frame_size[1]
        assert crop.height > 0
        assert crop.width > 0


def test_ten_views_are_corners_and_centre_and_their_flips() -> None:
    places = [(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)]
    expected = [Crop(top, left, 224, 224, flip) for flip in (False, True) for top, left in places]
    ten = view_crops(PAPER, 224, 10)
    assert len(ten) == 10
    assert set(ten) == set(expected)
    assert set(view_crops(PAPER, 224, 5)) == {crop for crop in expected if not crop.flip}
    assert view_crops(PAPER, 224, 2) == [Crop(16, 58, 224, 224, False), Crop(16, 58, 224, 224, True)]
    assert view_crops(PAPER, 224, 1) == [Crop(16, 58, 224, 224, False)]


def test_corners_touch_the_edges_where_the_room_is_odd() -> None:
    last = view_crops((101, 127), 64, 5)[3]
    assert (last.top + last.height, last.left + last.width) == (101, 127)


def test_another_number_of_views_is_refused() -> None:
    with pytest.raises(ValueError, match="3 crops"):
        view_crops(PAPER, 224, 3)


# Frames


def test_a_window_of_the_outputs_size_is_copied() -> None:
    frames = random_frames((3, *PAPER, 3))
    for flip in (False, True):
        cropped = crop_frames(frames, Crop(16, 58, 224, 224, flip), PAPER, 224)
        window = frames[:, 16:240, 58:282]
        expected = (window[:, :, ::-1] if flip else window).transpose(0, 3, 1, 2)
        assert cropped.dtype == torch.uint8
        assert cropped.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_array_equal(cropped.numpy(), expected)


@given(windows((120, 160), smallest=8), st.integers(8, 100), st.sampled_from([1, 2, 3, 10]))
@settings(max_examples=40, deadline=None)
def test_uint8_resizing_is_the_float_resizing_rounded(crop: Crop, output: int, channels: int) -> None:
    frames = random_frames((2, 120, 160, channels))
    window = frames[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if crop.flip:
        window = window[:, :, ::-1]
    floats = torch.from_numpy(window.astype(np.float32)).permute(0, 3, 1, 2)
    exact = functional.interpolate(floats, size=(output, output), mode="bilinear", antialias=True)
    difference = crop_frames(frames, crop, (120, 160), output).float() - exact
    assert difference.abs().max() <= 1.01


@given(windows((120, 160), smallest=8), st.integers(8, 100))
@settings(max_examples=40, deadline=None)
def test_resizing_agrees_with_pillow(crop: Crop, output: int) -> None:
    frames = random_frames((1, 120, 160, 3))
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    window = Image.fromarray(frames[0]).crop(box).resize((output, output), Image.Resampling.BILINEAR)
    expected = np.asarray(window).astype(int)
    if crop.flip:
        expected = expected[:, ::-1]
    cropped = crop_frames(frames, crop, (120, 160), output)[0].permute(1, 2, 0).numpy()
    difference = np.abs(cropped - expected)
    assert difference.max() <= 2  # both round twice, over columns and over rows, and are each up to 1 off
    assert (difference > 1).mean() < 0.01


@given(st.integers(1, 60), st.integers(1, 60), windows(PAPER))
@settings(max_examples=60, deadline=None)
def test_tiny_frames_still_give_a_crop(height: int, width: int, crop: Crop) -> None:
    frames = np.full((1, height, width, 3), 77, np.uint8)
    assert (crop_frames(frames, crop, PAPER, 32) == 77).all()


def test_the_window_is_mapped_to_the_sources_pixels() -> None:
    """A frame of 720 x 1280 is 2.8125 and 3.7647 times the paper's: rows 45 to 675, columns 218 to 1062."""
    frames = np.zeros((1, 720, 1280, 3), np.uint8)
    frames[:, 45:675, 218:1062] = 255
    assert (crop_frames(frames, Crop(16, 58, 224, 224, False), PAPER, 224) == 255).all()
    frames = 255 - frames
    assert (crop_frames(frames, Crop(16, 58, 224, 224, False), PAPER, 224) == 0).all()


@given(
    windows((40, 50), smallest=4), st.sampled_from([(40, 50), (17, 90)]), st.integers(1, 3), st.sampled_from([1, 3, 4])
)
@settings(max_examples=40, deadline=None)
def test_crops_lie_in_memory_as_frames_do(crop: Crop, source: tuple[int, int], count: int, channels: int) -> None:
    cropped = crop_frames(random_frames((count, *source, channels)), crop, (40, 50), 24)
    assert cropped.shape == (count, channels, 24, 24)
    assert cropped.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("segments", "crops"), [(1, 1), (3, 1), (1, 10), (4, 10)])
def test_stacking_keeps_the_memory_order(segments: int, crops: int) -> None:
    """Over views, then over clips, as the test's batches are made."""
    frames = random_frames((2, segments, *PAPER, 3))
    views = view_crops(PAPER, 224, crops)
    clips = [[crop_frames(clip, view, PAPER, 224) for view in views] for clip in frames]
    stacked = stack_frames([stack_frames(clip, dim=1) for clip in clips])
    assert torch.equal(stacked, torch.stack([torch.stack(clip, dim=1) for clip in clips]))
    assert stacked.movedim(-3, -1).is_contiguous()
    assert stacked.flatten(0, 2).is_contiguous(memory_format=torch.channels_last)


# Masks


@given(
    windows(PAPER, smallest=40),
    st.sampled_from([14, 28, 56, 64, 224]),
    st.sampled_from([(64, 85), (32, 43), (256, 340)]),
)
@settings(max_examples=60, deadline=None)
def test_masks_are_sampled_at_exact_places(crop: Crop, output: int, mask_size: tuple[int, int]) -> None:
    """Resampling reproduces a plane, so that a cropped plane shows a shift far below a mask's cell."""
    height, width = mask_size
    rows = (np.arange(height) + 0.5) / height * PAPER[0]  # mask cells' centres in pixels of the frame
    columns = (np.arange(width) + 0.5) / width * PAPER[1]
    mask = np.round(10 + 0.5 * rows[:, None] + 0.3 * columns).astype(np.uint8)
    cropped = crop_masks(torch.from_numpy(mask)[None], crop, PAPER, output)[0].numpy().astype(float)
    if crop.flip:
        cropped = cropped[:, ::-1]
    down = crop.top + (np.arange(output) + 0.5) / output * crop.height
    right = crop.left + (np.arange(output) + 0.5) / output * crop.width
    error = cropped - (10 + 0.5 * down[:, None] + 0.3 * right)
    # cells whose neighbours in the mask reach over the frame's edge see a plane cut off: leave them out
    reach = [
        max(size / cells, side / output)
        for size, cells, side in zip(PAPER, mask_size, (crop.height, crop.width), strict=True)
    ]
    inner = np.ix_((down > reach[0]) & (down < PAPER[0] - reach[0]), (right > reach[1]) & (right < PAPER[1] - reach[1]))
    assert np.abs(error[inner]).max() <= 2
    assert abs(error[inner].mean()) < 0.25  # half a cell of 4 pixels would be 1 level


def test_a_mask_of_the_frames_size_is_cropped_as_the_frame() -> None:
    """All but the outermost pixels: there a mask still sees what lies just outside the window."""
    frames = random_frames((2, *PAPER, 1))
    for crop in (Crop(16, 58, 224, 224, True), Crop(0, 84, 256, 192, False)):
        as_frame = crop_frames(frames, crop, PAPER, 56)[:, 0]
        as_mask = crop_masks(torch.from_numpy(frames[..., 0]), crop, PAPER, 56)
        assert (as_frame.int() - as_mask.int())[:, 1:-1, 1:-1].abs().max() <= 1


@given(windows(PAPER, smallest=1), st.integers(1, 64), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_an_even_mask_stays_even(crop: Crop, output: int, level: int) -> None:
    masks = torch.full((2, 64, 85), level, dtype=torch.uint8)
    cropped = crop_masks(masks, crop, PAPER, output)
    assert cropped.dtype == torch.uint8
    assert cropped.shape == (2, output, output)
    assert (cropped == level).all()


def disc(
    grid: tuple[int, int], frame_size: tuple[int, int], centre: tuple[float, float], radius: float
) -> npt.NDArray[np.uint8]:
    """A disc in pixels of the frame at ``frame_size``, drawn at the grid's resolution: 0 or 255."""
    rows = (np.arange(grid[0]) + 0.5) / grid[0] * frame_size[0] - centre[0]
    columns = (np.arange(grid[1]) + 0.5) / grid[1] * frame_size[1] - centre[1]
    return np.where(rows[:, None] ** 2 + columns**2 < radius**2, np.uint8(255), np.uint8(0))


@given(
    frame_size=st.tuples(st.integers(128, 300), st.integers(128, 400)),
    source=st.tuples(st.integers(150, 500), st.integers(150, 500)),
    mask_size=st.tuples(st.integers(48, 128), st.integers(48, 128)),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_frame_and_mask_stay_aligned(
    frame_size: tuple[int, int], source: tuple[int, int], mask_size: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    crop = multi_scale_crop(frame_size, 112, rng)
    centre = (crop.top + crop.height * rng.uniform(0.3, 0.7), crop.left + crop.width * rng.uniform(0.3, 0.7))
    radius = rng.uniform(0.2, 0.5) * min(crop.height, crop.width)
    frame = disc(source, frame_size, centre, radius)[None, :, :, None].repeat(3, 3)
    mask = torch.from_numpy(disc(mask_size, frame_size, centre, radius))[None]
    seen = crop_frames(frame, crop, frame_size, 112)[0, 0] > 127
    known = crop_masks(mask, crop, frame_size, 112)[0] > 127
    overlap = (seen & known).sum() / (seen | known).sum()

    # Both outlines are those of the disc but for their grids' cells and the window's rounding to whole pixels.
    cell = max(size / cells for size, cells in zip(frame_size, mask_size, strict=True))
    pixel = max(size / pixels for size, pixels in zip(frame_size, source, strict=True))
    rows = crop.top + (np.arange(112) + 0.5) / 112 * crop.height - centre[0]
    columns = crop.left + (np.arange(112) + 0.5) / 112 * crop.width - centre[1]
    distance = np.hypot(rows[:, None], columns) - radius
    if crop.flip:
        distance = distance[:, ::-1]
    far = np.abs(distance) > cell + pixel
    np.testing.assert_array_equal(seen.numpy()[far], (distance < 0)[far])
    np.testing.assert_array_equal(known.numpy()[far], (distance < 0)[far])
    assert overlap > 0.9
