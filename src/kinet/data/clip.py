"""What a clip is to its readers: frames by number, one plain cause if it can't be read, limits on sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

MAX_SIDE = 16_384  # pixels
MAX_PIXELS = 100_000_000
Frame = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Indices = Sequence[int] | npt.NDArray[np.int64]


class UnreadableClip(Exception):
    """A clip that cannot be read: ``path``, and ``cause`` in one line."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(path, cause)  # both, so that it survives the way back from a worker process
        self.path = path
        self.cause = " ".join(cause.split())

    def __str__(self) -> str:
        return f"{self.path}: {self.cause}"


class FrameSource(Protocol):
    """The frames of one clip. ``len`` is their exact number, at least 1."""

    def __len__(self) -> int: ...

    def read(self, indices: Indices) -> npt.NDArray[np.uint8]:
        """Frames by number, in any order, repeats allowed: (len(indices), H, W, 3) uint8 RGB.

        Raises UnreadableClip, and IndexError for a number outside [0, len).
        """
        ...


def check_size(path: Path, width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise UnreadableClip(path, f"frames of {width}x{height} pixels are too large")


def check_numbers(indices: Indices, length: int) -> list[int]:
    numbers = [int(index) for index in indices]
    for number in numbers:
        if not 0 <= number < length:
            raise IndexError(f"frame {number} of a clip of {length}")
    return numbers


def stack_frames(path: Path, frames: Iterable[tuple[int, Frame]], wanted: list[int]) -> npt.NDArray[np.uint8]:
    """``frames``, which come with their numbers, in the order of ``wanted``. Raises UnreadableClip if sizes differ."""
    places: dict[int, list[int]] = {}
    for place, number in enumerate(wanted):
        places.setdefault(number, []).append(place)
    stacked = np.empty((0, 0, 0, 3), np.uint8)
    first = None
    for number, frame in frames:
        if first is None:
            first = number
            stacked = np.empty((len(wanted), *frame.shape), np.uint8)
        elif frame.shape != stacked.shape[1:]:
            sizes = f"frame {first} is {_size(stacked.shape[1:])}, frame {number} is {_size(frame.shape)}"
            raise UnreadableClip(path, f"frames of different sizes ({sizes})")
        for place in places[number]:
            stacked[place] = frame
    return stacked


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
