"""What ``kinet scan`` and training make of damaged files.

    python studies/reliability/damaged.py DATA_DIR [--count 2000] [--seed 0] [--workers 1] [--out FILE.json]

Makes ``count`` damaged files from the clips in DATA_DIR (see damage.py; about 0.2 MB each, in a temporary folder),
scans them, and reads every one as training does, two epochs each, in processes that may be lost. Writes damaged.json
beside this file: a table by kind of damage, and

- damaged_files: how many were made;
- damaged_crashes, damaged_hangs: how many of them ended a process or ran into the time limit, in the scan or in the
  reading (the scan goes on and names them);
- damaged_memory: how many made the reading process grow by more than 1 GB, or be refused memory. A decoder that is
  refused memory in the scan is one of ``problems``: a header may ask for what the decoder never gets to use;
- damaged_missed: those that training could not read although the scan did not call them bad;
- damaged_unnamed: those that the scan found nothing wrong with. ``unchanged`` of them decode to what the whole clip
  decodes to (the damage hit an index, sound or padding); in the others the decoder took wrong data for right.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import av
import torch
from damage import Damaged, find_sources, make_files

from kinet.config import DataConfig
from kinet.data.clip import UnreadableClip
from kinet.data.clip_check import BAD
from kinet.data.dataset import SampleKey, Skipped, TrainDataset
from kinet.data.guarded import Failure, guarded_map
from kinet.data.manifest import read_manifest, write_manifest
from kinet.data.video import open_clip
from kinet.training.run_folder import write_json

HERE = Path(__file__).resolve().parent
TIMEOUT = 30  # seconds a file
MEMORY = 2048  # MB
EPOCHS = 2
SEGMENTS = 3
GROWTH = 1024  # MB
DEATHS = {"crash": "crashes", "error": "crashes", "timeout": "hangs"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "damaged.json")
    parser.add_argument("--keep", type=Path, help="make the files here and leave them (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        clips = folder / "clips"
        for new in (clips, folder / "encoded"):
            new.mkdir(parents=True)
        files = make_files(find_sources(options.data, folder / "encoded"), clips, options.count, options.seed)
        write_manifest(folder / "damaged.csv", [(f"clips/{file.name}", file.kind) for file in files])
        begin = time.perf_counter()
        scan(folder, options.workers)
        middle = time.perf_counter()
        readings, growth = read_as_training(folder / "damaged.csv", options.workers)
        seconds = {"scan": round(middle - begin, 1), "reading": round(time.perf_counter() - middle, 1)}
        result = summarise(files, folder, readings, growth)
    result |= {
        "seed": options.seed,
        "limits": {"seconds": TIMEOUT, "memory_mb": MEMORY},
        "largest_memory_growth_mb": max(growth.values()),
        "seconds": seconds,
        "pyav": av.__version__,
        "ffmpeg": av.ffmpeg_version_info,
    }
    write_json(options.out, result)
    print(json.dumps({key: value for key, value in result.items() if key != "by_kind"}))


def scan(folder: Path, workers: int) -> None:
    """The command itself must end with 0 whatever the files hold."""
    command = [sys.executable, "-m", "kinet.cli", "scan", folder / "damaged.csv", "--out", folder / "scan"]
    limits = ["--workers", workers, "--timeout", TIMEOUT, "--memory", MEMORY, "--segments", SEGMENTS]
    subprocess.run([str(word) for word in [*command, *limits]], check=True, stdout=subprocess.DEVNULL)


def read_as_training(manifest: Path, workers: int) -> tuple[dict[str, str], dict[str, int]]:
    """Of every clip that training could not read, why (``crash: ...`` for a lost process); and by how many MB the
    process grew over each."""
    items = [(manifest, row) for row in range(len(read_manifest(manifest)))]
    causes: dict[str, str] = {}
    growths: dict[str, int] = {}
    outcomes = guarded_map(read_item, items, workers=workers, timeout=TIMEOUT, memory=MEMORY * 2**20)
    for (_, row), outcome in outcomes:
        name = read_manifest_once(manifest)[row].name
        if isinstance(outcome, Failure):
            causes[name] = f"{outcome.kind}: {outcome.cause}"
            continue
        cause, growths[name] = outcome
        if cause is not None:
            causes[name] = f"skipped: {cause}"
    return causes, growths


def read_item(item: tuple[Path, int]) -> tuple[str | None, int]:
    """Why training skips the clip, None if it does not; and how many MB more this process held at its peak (Linux)."""
    manifest, row = item
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on: man 5 proc
    before = memory_peak()
    clips = TrainDataset(read_manifest_once(manifest), DataConfig(), SEGMENTS, None, seed=0)
    cause = None
    for epoch in range(EPOCHS):
        sample = clips[SampleKey(epoch, row)]
        if isinstance(sample, Skipped):
            cause = sample.cause
            break
    return cause, (memory_peak() - before) // 1024


def memory_peak() -> int:
    """In kB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


read_manifest_once = cache(read_manifest)


def summarise(files: list[Damaged], folder: Path, readings: dict[str, str], growth: dict[str, int]) -> dict[str, Any]:
    with (folder / "scan" / "report.csv").open(newline="", encoding="utf-8") as file:
        problems: dict[str, set[str]] = defaultdict(set)
        for row in csv.DictReader(file):
            problems[row["path"]].add(row["problem"])
    lines = (json.loads(line) for line in (folder / "scan" / "clips.jsonl").read_text().splitlines())
    frames = {line["path"]: line["frames"] for line in lines}
    table: dict[str, Counter[str]] = defaultdict(Counter)
    missed = {}
    for file in files:
        name, row = f"clips/{file.name}", table[file.kind]
        found = problems[name] - {"duplicate"}
        row["files"] += 1
        verdict = "bad" if not found.isdisjoint(BAD) else "suspect" if found else "unnamed"
        row[verdict] += 1
        if verdict == "unnamed" and file.source and same_frames(folder / name, file.source, frames[name]):
            row["unchanged"] += 1
        reading = readings.get(name, "")
        row["skipped in training"] += reading.startswith("skipped")
        kind = reading.split(":")[0]
        for key in {DEATHS[death] for death in {kind, *found} if death in DEATHS}:
            row[key] += 1
        row["memory"] += kind == "memory" or growth.get(name, 0) > GROWTH
        if reading and verdict != "bad":
            row["missed"] += 1
            missed[file.name] = reading
    total = Counter[str]()
    for row in table.values():
        total.update(row)
    return {
        "damaged_files": len(files),
        "damaged_crashes": total["crashes"],
        "damaged_hangs": total["hangs"],
        "damaged_memory": total["memory"],
        "damaged_missed": total["missed"],
        "damaged_unnamed": total["unnamed"],
        "damaged_unnamed_unchanged": total["unchanged"],
        "problems": dict(Counter(kind for kinds in problems.values() for kind in kinds)),
        "missed": missed,
        "by_kind": {kind: dict(row) for kind, row in table.items()},
    }


def same_frames(path: Path, source: Path, count: int) -> bool:
    """The damaged clip decodes to the frames of the whole one."""
    try:
        ours, whole = open_clip(path), open_clip(source)
        if len(ours) != len(whole) or count != len(whole):
            return False
        return all((ours.read([number]) == whole.read([number])).all() for number in range(count))
    except UnreadableClip:
        return False


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
