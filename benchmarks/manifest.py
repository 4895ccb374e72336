"""Time and memory of a manifest of Kinetics-700's size: reading it, and drawing one epoch from it.

    python benchmarks/manifest.py [--clips 650000] [--repeats 5]

A made manifest is read in fresh processes, which import the package first. Writes benchmarks/results/manifest.json:
medians over the processes, and the highest peak of resident memory, which holds Python, torch and the package too.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kinet.data.dataset import EpochSampler
from kinet.data.manifest import read_manifest, write_manifest

RESULT = Path(__file__).resolve().parent / "results" / "manifest.json"
CLASSES = 700


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=650_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)  # what the fresh processes do
    options = parser.parse_args()
    if options.step is not None:
        step, path = options.step
        print(json.dumps(measure(Path(path)) if step == "measure" else make_manifest(Path(path), options.clips)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kinetics700.csv"
        run_step("make", path, options.clips)  # in its own process: a peak of memory is handed on to children
        runs = [run_step("measure", path, options.clips) for _ in range(options.repeats)]
        size = path.stat().st_size
    medians = {key: statistics.median(run[key] for run in runs) for key in ("read_s", "sample_s", "total_s", "cpu_s")}
    result = {
        "clips": options.clips,
        "file_mb": round(size / 1e6, 1),
        "repeats": options.repeats,
        **{key: round(value, 3) for key, value in medians.items()},
        "imported_mb": round(statistics.median(run["imported_mb"] for run in runs), 1),
        "peak_mb": round(max(run["peak_mb"] for run in runs), 1),
        "python": sys.version.split()[0],
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def run_step(step: str, path: Path, clips: int) -> Any:
    command = [sys.executable, __file__, "--step", step, str(path), "--clips", str(clips)]
    return json.loads(subprocess.check_output(command))


def make_manifest(path: Path, clips: int) -> None:
    """Names as Kinetics-700 has them: train/<class>/<YouTube id>_<start>_<end>.mp4."""
    rng = random.Random(0)
    letters = string.ascii_letters + string.digits + "-_"
    rows = []
    for number in range(clips):
        label = f"doing the thing number {number % CLASSES}"
        video, start = "".join(rng.choices(letters, k=11)), rng.randrange(600)
        rows.append((f"train/{label}/{video}_{start:06d}_{start + 10:06d}.mp4", label))
    rng.shuffle(rows)
    write_manifest(path, rows)


def measure(path: Path) -> dict[str, float]:
    """In this process: read the manifest, draw all clips of an epoch in batches of 32, and take the peak memory."""
    imported = peak_mb()
    started, cpu = time.perf_counter(), time.process_time()
    manifest = read_manifest(path)
    read = time.perf_counter()
    drawn = sum(1 for _ in EpochSampler(len(manifest), 32, seed=0))
    sampled = time.perf_counter()
    if drawn != len(manifest):
        raise SystemExit(f"{drawn} of {len(manifest)} clips were drawn")
    return {
        "read_s": read - started,
        "sample_s": sampled - read,
        "total_s": sampled - started,
        "cpu_s": time.process_time() - cpu,
        "imported_mb": imported,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Highest resident memory of this process so far; Linux counts KiB, macOS bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


if __name__ == "__main__":
    main()
