"""Resident memory over many clip reads, and what a loading process holds of a long manifest.

    python benchmarks/memory.py [--shared FOLDER] [--reads 20000]

FOLDER holds data/ucf101_samples, data/weizmann and data/hmdb25 (videos and folders of images); without it small videos
are generated. ``growth_mb`` is the highest resident memory of a process that samples, decodes and crops training clips
one after the other, over that after its first ``warm_up`` reads: every clip was read then, and the allocator, set as a
training sets it, has its working size. ``worker_mb`` is the private memory of one of two loading processes behind a
manifest of 1,000 and of 650,000 rows. Writes benchmarks/results/memory.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch.utils.data import DataLoader

from kinet.config import DataConfig
from kinet.data.dataset import EpochSampler, SampleKey, TrainDataset, collate_train
from kinet.data.manifest import Manifest, read_manifest
from kinet.training.devices import keep_freed_memory
from kinet.training.run_folder import environment, write_json

RESULTS = Path(__file__).parent / "results" / "memory.json"
ROWS = (1_000, 650_000)
SEGMENTS = 3
BATCHES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        names = shared_clips(options.shared) if options.shared else generated_clips(Path(folder))
        result: dict[str, Any] = {"clips": len(names), **growth(names, options.reads)}
        result["worker_mb"] = {str(rows): round(worker_memory(names, rows), 1) for rows in ROWS}
        result["manifest"] = long_manifest(Path(folder) / "long.csv", ROWS[-1])
    result["versions"] = environment()["versions"]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, result)
    print(json.dumps(result))


def shared_clips(shared: Path) -> list[str]:
    """UCF-101 (XviD, 320x240), Weizmann (raw, 180x144) and folders of eight JPEG images (224x224), 40 clips of each."""
    data = shared / "data"
    kinds = (data.glob("ucf101_samples/*.avi"), data.glob("weizmann/*/*.avi"), data.glob("hmdb25/*/*"))
    return [str(path) for kind in kinds for path in sorted(kind)[:40]]


def generated_clips(folder: Path, count: int = 12, frames: int = 40) -> list[str]:
    """Videos of noise, 160x120, with a keyframe every 12 frames."""
    rng = np.random.default_rng(0)
    for number in range(count):
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            for _ in range(frames):
                image = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            container.mux(stream.encode(None))
    return [str(path) for path in sorted(folder.glob("*.mp4"))]


def dataset_of(names: list[str], rows: int) -> TrainDataset:
    """Training samples of a manifest of ``rows`` rows, in which the clips repeat."""
    manifest = Manifest(
        Path("clips"), Path(), ["any"], ((name, 0) for name in itertools.islice(itertools.cycle(names), rows))
    )
    return TrainDataset(manifest, DataConfig(), SEGMENTS, None, seed=0)


def growth(names: list[str], reads: int) -> dict[str, float]:
    """Megabytes that ``reads`` reads add."""
    dataset = dataset_of(names, len(names))
    warm_up = min(max(500, 3 * len(names)), reads // 4)
    highest, before, begun = 0.0, 0.0, time.perf_counter()
    for read in range(reads):
        dataset[SampleKey(*divmod(read, len(names)))]
        if read == warm_up:
            highest = before = resident("self")
        elif read % 100 == 0:
            highest = max(highest, resident("self"))
    return {
        "reads": reads,
        "warm_up": warm_up,
        "before_mb": round(before, 1),
        "growth_mb": round(highest - before, 1),
        "end_mb": round(resident("self") - before, 1),
        "reads_per_s": round(reads / (time.perf_counter() - begun), 1),
    }


def worker_memory(names: list[str], rows: int) -> float:
    """Megabytes that a loading process holds for itself, after its share of the batches."""
    dataset = dataset_of(names, rows)
    sampler = EpochSampler(rows, 8, 0)
    loader: DataLoader[Any] = DataLoader(dataset, 8, sampler=sampler, collate_fn=collate_train, num_workers=2)
    batches = iter(loader)
    for _ in range(BATCHES):
        next(batches)
    held = [private(str(process.pid)) for process in multiprocessing.active_children()]
    return sum(held) / len(held)


def long_manifest(path: Path, rows: int) -> dict[str, float]:
    """Seconds and peak memory of a process that reads a manifest of ``rows`` rows and draws an epoch's order."""
    with path.open("w") as file:
        file.write("path,label\n")
        file.writelines(
            f"class {row % 700:03}/video_{row:09}_000000_000010.mp4,class {row % 700:03}\n" for row in range(rows)
        )
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(read_and_order, (path,))


def read_and_order(path: Path) -> dict[str, float]:
    begun, before = time.perf_counter(), resident("self")
    sampler = EpochSampler(len(read_manifest(path)), 32, 0)
    keys = sum(1 for _ in sampler)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": keys,
        "seconds": round(time.perf_counter() - begun, 2),
        "peak_mb": round(peak, 1),
        "over_imports_mb": round(peak - before, 1),
    }


def resident(process: str) -> float:
    """Megabytes of a process's memory that lie in RAM."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def private(process: str) -> float:
    """Megabytes of it that it shares with no other."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
    main()
