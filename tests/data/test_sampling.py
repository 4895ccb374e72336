"""Sampling: segments cover the clip, every frame counts alike, short clips repeat frames."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet.data import sampling  # not the functions: pytest would take `test_indices` for a test

FRAMES = st.integers(1, 400)
SEGMENTS = st.integers(1, 30)


@given(FRAMES, SEGMENTS, st.integers(0, 2**32))
def test_a_training_frame_lies_in_its_own_segment(frames: int, segments: int, seed: int) -> None:
    indices = sampling.train_indices(frames, segments, np.random.default_rng(seed))
    assert indices.dtype == np.int64
    assert indices.shape == (segments,)
    length = Fraction(frames, segments)
    for segment, index in enumerate(indices.tolist()):
        assert index < (segment + 1) * length  # the frame [index, index + 1) meets the segment
        assert index + 1 > segment * length


@given(FRAMES, SEGMENTS)
def test_a_test_frame_is_its_segments_centre(frames: int, segments: int) -> None:
    indices = sampling.test_indices(frames, segments)
    assert indices.dtype == np.int64
    length = Fraction(frames, segments)
    assert indices.tolist() == [floor(length / 2 + length * segment) for segment in range(segments)]


@pytest.mark.parametrize(("frames", "segments"), [(7, 3), (8, 3), (10, 4), (5, 5)])
def test_all_frames_are_equally_likely(frames: int, segments: int) -> None:
    rng = np.random.default_rng(0)
    draws = 6000
    sampled = np.concatenate([sampling.train_indices(frames, segments, rng) for _ in range(draws)])
    share = np.bincount(sampled, minlength=frames) / draws
    probability = segments / frames
    assert np.abs(share - probability).max() < 5 * np.sqrt(probability / draws)


@given(st.integers(1, 29).flatmap(lambda frames: st.tuples(st.just(frames), st.integers(frames + 1, 60))))
def test_a_short_clip_repeats_its_frames_evenly(sizes: tuple[int, int]) -> None:
    frames, segments = sizes
    indices = sampling.test_indices(frames, segments)
    times = np.bincount(indices, minlength=frames)
    assert len(times) == frames
    assert times.min() >= 1
    assert times.max() - times.min() <= 1
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(sampling.train_indices(frames, segments, rng), indices)


def test_the_generator_decides_alone() -> None:
    first, second, other = (sampling.train_indices(300, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("frames", "segments"), [(0, 3), (3, 0), (-1, 3)])
def test_nothing_to_sample_is_refused(frames: int, segments: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        sampling.test_indices(frames, segments)
    with pytest.raises(ValueError, match="at least 1"):
        sampling.train_indices(frames, segments, np.random.default_rng(0))
