"""How packs store frames: any frame decodes from its own group, sizes and rates are as asked for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kinet.data.clip import UnreadableClip
from kinet.data.pack_codec import (
    GROUP,
    QUALITY,
    Format,
    PackSettings,
    check_settings,
    decode_frames,
    encode_clip,
    encode_h264,
    encode_jpeg,
    kept_frames,
    reduce,
)
from kinet.errors import InputError

LENGTH = 11
FORMATS: tuple[Format, ...] = ("jpeg", "h264")


def moving_frames(height: int, width: int) -> np.ndarray:
    """A bright square that moves over a slope, (LENGTH, height, width, 3)."""
    frames = np.empty((LENGTH, height, width, 3), np.uint8)
    frames[:] = (np.indices((height, width)).sum(0) % 200)[None, ..., None]
    for number, frame in enumerate(frames):
        frame[8:20, 2 * number : 2 * number + 12] = (255, 200, 40)
    return frames


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(np.float64) - other) ** 2)))


def encode(format: Format, frames: np.ndarray) -> list[bytes]:
    encoder = encode_jpeg if format == "jpeg" else encode_h264
    return list(encoder(iter(frames), QUALITY[format][2]))


@pytest.fixture(scope="module", params=FORMATS)
def coded(request: pytest.FixtureRequest) -> tuple[Format, list[bytes], np.ndarray]:
    frames = moving_frames(48, 64)
    return request.param, encode(request.param, frames), frames


@given(wanted=st.lists(st.integers(0, LENGTH - 1), max_size=6))
def test_any_frames_decode_alike(coded: Any, wanted: list[int]) -> None:
    format, data, frames = coded
    asked: list[int] = []

    def read(first: int, last: int) -> list[bytes]:
        asked.append(first)
        return data[first:last]  # no more than is asked for

    decoded = decode_frames(format, read, wanted, 48, 64)
    everything = decode_frames(format, lambda first, last: data[first:last], range(LENGTH), 48, 64)
    np.testing.assert_array_equal(decoded, everything[wanted])
    assert psnr(everything, frames) > 35
    assert asked == sorted({number - number % GROUP[format] for number in wanted})


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [(47, 63), (48, 63), (47, 64), (39, 41)])
def test_odd_sizes_come_back(format: Format, size: tuple[int, int]) -> None:
    frames = moving_frames(64, 80)[:, 8 : 8 + size[0], : size[1]]
    data = encode(format, frames)
    decoded = decode_frames(format, lambda first, last: data[first:last], range(LENGTH), *size)
    assert decoded.shape == frames.shape
    assert psnr(decoded, frames) > 32


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_and_foreign_bytes_are_refused(format: Format) -> None:
    data = encode(format, moving_frames(48, 64))
    larger = encode(format, moving_frames(96, 64))
    for bad in (b"", b"\0" * 100, data[0][:20], larger[0]):
        with pytest.raises(ValueError):  # noqa: PT011  (simplejpeg's texts, and ours)
            decode_frames(format, lambda first, last, bad=bad: [bad], [0], 48, 64)  # type: ignore[misc]


@given(
    frames=st.integers(1, 400),
    rate=st.sampled_from([5, 10, 23.976, 25, 29.97, 30, 50, 60]),
    fps=st.floats(0.5, 70, allow_subnormal=False),
)
def test_kept_frames_are_the_nearest_in_time(frames: int, rate: float, fps: float) -> None:
    kept = kept_frames(frames, rate, fps, Path("clip"))
    assert kept[0] == 0
    assert kept[-1] < frames
    if fps >= rate:
        assert kept.tolist() == list(range(frames))
    else:
        assert all(a < b for a, b in pairwise(kept.tolist()[:-1]))
        times = np.arange(len(kept)) / fps
        late = kept == frames - 1  # the last frame stands for times behind it
        assert np.all(late | (np.abs(kept / rate - times) <= 0.5 / rate + 1e-9))
        assert len(kept) - 1 < frames * fps / rate <= len(kept) + 1e-9


def test_a_clip_without_a_rate_is_packed_whole_or_not_at_all() -> None:
    assert kept_frames(3, None, None, Path("clip")).tolist() == [0, 1, 2]
    with pytest.raises(UnreadableClip, match="no frame rate"):
        kept_frames(3, None, 10, Path("clip"))


@given(height=st.integers(1, 200), width=st.integers(1, 200), side=st.integers(16, 100))
def test_frames_are_reduced_never_enlarged(height: int, width: int, side: int) -> None:
    small = reduce(np.zeros((height, width, 3), np.uint8), side)
    if min(height, width) <= side:
        assert small.shape == (height, width, 3)
    else:
        assert min(small.shape[:2]) == side
        assert abs(small.shape[0] * width - small.shape[1] * height) <= max(height, width) / 2 + 1


def test_frames_of_different_sizes_are_no_clip(tmp_path: Path) -> None:
    for number, size in enumerate([(32, 32), (32, 40)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    with pytest.raises(UnreadableClip, match="different sizes"):
        encode_clip(tmp_path, PackSettings(), tmp_path / "part")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (PackSettings(quality=101), "--quality 101: give 1 to 100 for --format jpeg"),
        (PackSettings("h264", 52), "--quality 52: give 0 to 51 for --format h264"),
        (PackSettings(short_side=0), "--short-side 0"),
        (PackSettings(fps=0.0), "--fps 0.0"),
        (PackSettings(fps=float("nan")), "--fps nan"),
    ],
)
def test_wrong_settings_are_refused(settings: PackSettings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_settings(settings)
