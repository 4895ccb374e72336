"""This project's side of data.py."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sides import Stopwatch, serve
from torch.nn import functional

from kinet.data.clip import FrameSource
from kinet.data.pack import Pack
from kinet.data.sampling import test_indices, train_indices
from kinet.data.transforms import crop_frames, multi_scale_crop, stack_frames
from kinet.data.video import open_clip
from kinet.models.normalise import normalise

FRAME_SIZE, INPUT = (256, 340), 224
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))


def decode(path: str, indices: list[int], seed: int, cold: bool) -> dict[str, Any]:
    """From the path to RGB frames. ``cold``: whatever this process remembers of the file no longer counts."""
    if cold:
        now = time.time_ns()
        os.utime(path, ns=(now, now))
    watch = Stopwatch()
    frames = sample(open_clip(Path(path)), indices, seed)
    return {**watch.read(), "thumbnails": thumbnails(frames)}


def packed(pack: str, name: str, indices: list[int], seed: int) -> dict[str, Any]:
    """The same from a pack that is open already, as a worker has it."""
    opened = open_pack(pack)
    watch = Stopwatch()
    frames = sample(opened.open(name), indices, seed)
    return {**watch.read(), "thumbnails": thumbnails(frames)}


@cache
def open_pack(pack: str) -> Pack:
    return Pack(Path(pack))


def sample(source: FrameSource, indices: list[int], seed: int) -> np.ndarray:
    """Draws frames of its own, which takes its time, and then reads those that the peer drew."""
    if len(indices) == 25:
        test_indices(len(source), 25)
    else:
        train_indices(len(source), len(indices), np.random.default_rng(seed))
    return source.read(indices)


def thumbnails(frames: np.ndarray) -> list[Any]:
    """(n, 8, 8, 3) as lists."""
    small = functional.interpolate(torch.from_numpy(frames).permute(0, 3, 1, 2).float(), size=(8, 8), mode="area")
    return small.round().permute(0, 2, 3, 1).tolist()


def pack_opening_ms(pack: str) -> float:
    open_pack.cache_clear()
    start = time.perf_counter()
    open_pack(pack)
    return 1e3 * (time.perf_counter() - start)


def preprocess(height: int, width: int, seed: int, repetitions: int) -> list[dict[str, dict[str, float]]]:
    """From 3 frames to uint8, which is a worker's part, and from them to the network's normalised input."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    times = []
    for _ in range(repetitions):
        watch = Stopwatch()
        crop = multi_scale_crop(FRAME_SIZE, INPUT, rng)
        cropped = crop_frames(frames, crop, FRAME_SIZE, INPUT)
        uint8 = watch.read()
        normalise(stack_frames([cropped]).flatten(0, 1), MEAN, STD)
        times.append({"uint8": uint8, "whole": watch.read()})
    return times


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(decode, packed, pack_opening_ms, preprocess)
