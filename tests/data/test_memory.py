"""Memory stays flat however many clips are read; benchmarks/memory.py is the long version."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from kinet.data.dataset import SampleKey, TrainDataset
from kinet.data.manifest import Manifest

ToySet = Any  # tests/conftest.py's, which tests cannot import


def resident() -> float:
    """Megabytes of this process that lie in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_reading_clips_again_and_again_takes_no_more_memory(toy: ToySet, tmp_path: Path) -> None:
    """A frame kept of every read would be 9 MB here, a decoder far more."""
    video = tmp_path / "clip.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        for number in range(12):
            image = np.full((64, 80, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))
    names = [str(video), str(toy.folder / "train" / "hiking" / "0"), str(tmp_path / "missing.mp4")]
    clips = Manifest(tmp_path, tmp_path, ["any"], ((name, 0) for name in names))
    data = replace(toy.tsn(tmp_path).data, input_size=64)
    dataset = TrainDataset(clips, data, 3, None, seed=0)

    def read(epochs: range) -> float:
        for epoch in epochs:
            for clip in range(len(clips)):
                dataset[SampleKey(epoch, clip)]
        return resident()

    before = read(range(100))
    assert read(range(100, 400)) - before < 4
