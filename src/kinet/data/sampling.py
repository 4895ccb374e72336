"""Which frames of a clip the network sees: one a segment (TSN, Wang et al., ECCV 2016)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def train_indices(frames: int, segments: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A random frame of each of ``segments`` equal segments of a clip of ``frames`` frames.

    Returns (segments,) int64, in order, each in [0, frames). A clip with fewer frames than segments gives
    ``test_indices``: every frame, repeated as evenly as can be.

    Segment i is the real interval [i * frames / segments, (i + 1) * frames / segments), and all frames are
    equally likely on average. tsn-pytorch (``dataset.py``) rounds a segment's length down, which never shows
    the network the last ``frames % segments`` frames, and in short clips repeats the first frame alone.
    Raises ValueError where ``frames`` or ``segments`` is below 1.
    """
    if frames < segments:
        return test_indices(frames, segments)
    _check(frames, segments)
    edges = np.arange(segments + 1, dtype=np.int64) * frames  # in units of 1 / segments frames: no rounding
    return rng.integers(edges[:-1], edges[1:]) // segments


def test_indices(frames: int, segments: int) -> npt.NDArray[np.int64]:
    """The centre of each of ``segments`` equal segments of a clip of ``frames`` frames.

    Returns (segments,) int64, in order, each in [0, frames): floor((i + 1/2) * frames / segments), as
    tsn-pytorch's ``_get_test_indices``. A clip with fewer frames than segments repeats frames, none left out.
    Raises ValueError where ``frames`` or ``segments`` is below 1.
    """
    _check(frames, segments)
    centres = (2 * np.arange(segments, dtype=np.int64) + 1) * frames
    return centres // (2 * segments)


def _check(frames: int, segments: int) -> None:
    if frames < 1 or segments < 1:
        raise ValueError(f"{segments} segments of {frames} frames: both must be at least 1")
