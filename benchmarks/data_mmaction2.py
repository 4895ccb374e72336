"""mmaction2's side of data.py, run in its own environment: PYTHON data_mmaction2.py PEER_SCRIPT

PEER_SCRIPT has mmaction2's pipelines as ``AUGMENT`` and ``pipeline(decoder, segments, test, decode_only)``, its builder
``MODELS`` and its ``Compose``.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from sides import Stopwatch, serve

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def load_peer(script: str) -> Any:
    spec = importlib.util.spec_from_file_location("mmaction2_peer", script)
    if spec is None or spec.loader is None:
        sys.exit(f"{script}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


peer = load_peer(sys.argv[1])


@cache
def decoding(frames: int) -> Any:
    """3 frames are drawn as in training, 25 taken as in the test."""
    return peer.pipeline("Decord", frames, frames == 25, True)


def decode(path: str, frames: int, seed: int) -> dict[str, Any]:
    """From the path to RGB frames, the file opened anew. Says which frames it drew."""
    pipeline = decoding(frames)
    np.random.seed(seed)
    watch = Stopwatch()
    result = pipeline({"filename": path, "label": 0, "start_index": 0, "modality": "RGB"})
    times = watch.read()
    images = [cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).tolist() for image in result["imgs"]]
    return {**times, "indices": [int(index) for index in result["frame_inds"]], "thumbnails": images}


@cache
def augmentation() -> tuple[Any, Any]:
    scaling = {"type": "ActionDataPreprocessor", "mean": MEAN, "std": STD, "format_shape": "NCHW"}
    return peer.Compose(peer.AUGMENT), peer.MODELS.build(scaling)


def preprocess(height: int, width: int, seed: int, repetitions: int) -> list[dict[str, dict[str, float]]]:
    """From 3 frames to uint8, which is a worker's part, and from them to the network's normalised input."""
    augment, normalise = augmentation()
    np.random.seed(seed)
    noise = np.random.default_rng(seed)
    frames = [noise.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(3)]
    shape = {"original_shape": (height, width), "img_shape": (height, width)}
    times = []
    for _ in range(repetitions):
        watch = Stopwatch()
        sample = augment({"imgs": list(frames), **shape, "num_clips": 3, "clip_len": 1, "label": 0, "modality": "RGB"})
        uint8 = watch.read()
        normalise({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}, True)
        times.append({"uint8": uint8, "whole": watch.read()})
    return times


if __name__ == "__main__":
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # as mmengine's Runner sets it in workers
    serve(decode, preprocess)
