"""Read every frame of every clip at random and compare it with a plain sequential decode, bit for bit.

    python studies/decoding/bit_equal.py DATA_DIR studies/decoding/summary.json

DATA_DIR is a folder of video files, at any depth. The frames of a clip, shuffled, are read in sets of 1, 3 and 25
until all were read: each set by a new source and by one that stays open. All frames are read at once in shuffled
order, and by consecutive sets. Of clips of up to 64 frames each frame is read alone, in shuffled order.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from kinet.data.video import VIDEO_SUFFIXES, open_clip
from kinet.progress import clip_progress
from kinet.training.run_folder import write_json

SHORT = 64  # frames
Indices = npt.NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.data.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    folders: dict[str, int] = {}
    different, frames, reads = [], 0, 0
    with clip_progress("clips", len(paths)) as advance:
        for number, path in enumerate(paths):
            expected = decode_in_order(path)
            count, equal = compare(path, expected, np.random.default_rng(number))
            name = path.relative_to(arguments.data)
            folders[name.parts[0]] = folders.get(name.parts[0], 0) + 1
            frames, reads = frames + len(expected), reads + count
            if not equal:
                different.append(str(name))
            advance(1, str(name))
    summary = {
        "clips": len(paths),
        "bit_equal_clips": len(paths) - len(different),
        "different": different,
        "clips_by_folder": folders,
        "frames": frames,
        "reads": reads,
        "libraries": {"av": av.__version__, "ffmpeg": av.ffmpeg_version_info},
    }
    write_json(arguments.out, summary)
    print(f"{summary['bit_equal_clips']} of {len(paths)} clips are bit-equal, {frames} frames in {reads} reads")


def decode_in_order(path: Path) -> npt.NDArray[np.uint8]:
    """The reference: all frames by PyAV's plain decode on one thread, (T, H, W, 3) uint8 RGB."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def compare(path: Path, expected: npt.NDArray[np.uint8], rng: np.random.Generator) -> tuple[int, bool]:
    """How many reads there were, and whether all gave the frames of ``expected``."""
    stays_open = open_clip(path)
    equal = len(stays_open) == len(expected)
    count = 0
    for indices, new in index_sets(len(expected), rng):
        frames = (open_clip(path) if new else stays_open).read(indices)
        equal = equal and np.array_equal(frames, expected[indices])
        count += 1
    return count, equal


def index_sets(length: int, rng: np.random.Generator) -> Iterator[tuple[Indices, bool]]:
    """Sets of frame numbers, and whether a new source is to read them."""
    yield rng.permutation(length), False
    yield from ((part, False) for part in np.array_split(np.arange(length), length // 16 + 1))
    for new in (True, False):
        rest = rng.permutation(length)
        sizes = [1, 3]
        while len(rest):
            size = sizes.pop() if sizes else 25
            yield rest[:size], new
            rest = rest[size:]
    if length <= SHORT:
        yield from ((np.array([number]), False) for number in rng.permutation(length))


if __name__ == "__main__":
    main()
