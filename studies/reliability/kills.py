"""One training on real clips, killed again and again with SIGKILL, compared with one that was not.

    python studies/reliability/kills.py --shared FOLDER [--kills 50] [--seed 0]

FOLDER holds data/hmdb25 and data/hmdb25_splits (folders of images by class, and a csv of the clips to take). The
training is small (TSN, a narrow ResNet-10 with dropout, 64 x 64, batches of 8) and writes a checkpoint after every
step. Every other kill waits for a checkpoint to be in the writing; of the others, a quarter come in the start, the
rest at a random moment behind it, be it in a step or in validation. Each start draws its number of loading processes
from 0, 1 and 2. Runs go into runs/kills, results into kills.json beside this file. ``identical`` counts the kills
whose checkpoint has, bit for bit, the weights of the unbroken training at that step; ``final_identical`` compares
weights, momenta, random states and log of the two ends.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from kinet.config import Config, DataConfig, ModelConfig, TrainingConfig
from kinet.data.manifest import write_manifest
from kinet.data.sources.folder import index_frames
from kinet.training import engine
from kinet.training.checkpoint import load_checkpoint
from kinet.training.run_folder import RunFolder, read_log, to_plain, write_json

RUNS = Path("runs/kills")
RESULTS = Path(__file__).with_name("kills.json")
TIMINGS = {"seconds", "data_wait", "clips_per_s"}
LONGEST_WAIT = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--clips", type=int, default=450, help="training clips")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the kills' moments")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(RUNS, ignore_errors=True)
    config = small_training(options)
    expected = train_unbroken(config)
    broken = Path(config.out).with_name("broken")
    (RUNS / "config.yaml").write_text(yaml.safe_dump(to_plain(asdict(config))))
    rng, kills = random.Random(options.seed), []
    while len(kills) < options.kills:
        kill = kill_once(broken, rng, in_write=len(kills) % 2 == 1)
        if kill is None:
            raise SystemExit(f"the training ended after {len(kills)} kills; give it more --epochs")
        kill["identical"] = kill["step"] == 0 or expected[kill["step"]] == kill.pop("weights")
        kills.append(kill)
        print(json.dumps(kill), file=sys.stderr)
    start(broken, workers=1).wait()
    result = {
        "kills": len(kills),
        "identical": sum(kill["identical"] for kill in kills),
        "in_a_checkpoint_write": sum(kill["in_write"] for kill in kills),
        "most_steps_lost": max(kill["steps_lost"] for kill in kills),
        "final_identical": same_end(Path(config.out), broken),
        "steps": max(expected),
        "config": asdict(config),
        "each": kills,
    }
    write_json(options.out, result)
    print(json.dumps({key: value for key, value in result.items() if key not in ("each", "config")}))


def small_training(options: argparse.Namespace) -> Config:
    """TSN on the first clips of each split."""
    data = options.shared / "data"
    RUNS.mkdir(parents=True)
    for split, count in (("train", options.clips), ("val", 50)):
        rows = index_frames(data / "hmdb25", data / "hmdb25_splits" / f"{split}.csv")
        write_manifest(RUNS / f"{split}.csv", rows[:: max(1, len(rows) // count)][:count])
    return Config(
        out=str(RUNS / "unbroken"),
        model=ModelConfig(backbone="resnet10_narrow", weights="none", auxiliaries=[], cbi=[], akg="none", dropout=0.5),
        data=DataConfig(
            train=str(RUNS / "train.csv"),
            val=str(RUNS / "val.csv"),
            root=str(data / "hmdb25"),
            frame_size=(72, 72),
            input_size=64,
            batch_size=8,
            workers=2,
        ),
        training=TrainingConfig(
            epochs=options.epochs,
            milestones=[options.epochs // 2],
            warmup_steps=20,
            precision="32-true",
            device="cpu",
            log_every=1,
            checkpoint_minutes=0,
        ),
    )


def train_unbroken(config: Config) -> dict[int, str]:
    """The hash of the weights after every step."""
    hashes = {}
    write = engine.write_last

    def write_and_note(training: engine.Training, *rest: Any) -> None:
        hashes[training.position.step] = weights_hash(training.model.state_dict())
        write(training, *rest)

    engine.write_last = write_and_note
    engine.train(config)
    engine.write_last = write
    return hashes


def kill_once(run: Path, rng: random.Random, *, in_write: bool) -> dict[str, Any] | None:
    """Start or go on, kill, and tell where the next start will go on; None where the training ended first."""
    workers = rng.choice((0, 1, 2))
    last, writing = (run / "checkpoints" / name for name in ("last.pt", "last.pt.tmp"))
    writing.unlink(missing_ok=True)  # an earlier kill's
    before = age(last)
    begun = time.monotonic()
    process = start(run, workers)
    if not in_write and rng.random() < 0.25:
        time.sleep(rng.uniform(0, 8))
    else:
        wait_until(process, lambda: age(last) != before)
        time.sleep(rng.uniform(0, 0.6))
        if in_write:
            wait_until(process, writing.exists)
            time.sleep(rng.uniform(0, 0.005))
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoint = RunFolder(run).find_checkpoint("auto")
    step = checkpoint.training["position"]["step"] if checkpoint and checkpoint.training else 0
    log = run / "metrics.jsonl"
    logged = max((int(row["step"]) for row in read_log(log)), default=0) if log.exists() else 0
    return {
        "workers": workers,
        "seconds": round(time.monotonic() - begun, 2),
        "in_write": writing.exists(),
        "logged": logged,
        "step": step,
        "steps_lost": max(0, logged - step),
        "weights": weights_hash(checkpoint.model) if checkpoint else "",
    }


def start(run: Path, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kinet.cli", "train", str(RUNS / "config.yaml"), "--resume", "auto"]
    settings = ["--out", str(run), "--data.workers", str(workers)]
    with (RUNS / "stderr.txt").open("ab") as errors:
        return subprocess.Popen(
            [*command, *settings], env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=errors
        )


def wait_until(process: subprocess.Popen[bytes], happened: Any) -> None:
    """Look every millisecond until it happened or the process ended."""
    begun = time.monotonic()
    while process.poll() is None and not happened():
        if time.monotonic() - begun > LONGEST_WAIT:
            raise SystemExit("the training does not go on; see runs/kills/stderr.txt")
        time.sleep(0.001)


def age(file: Path) -> int:
    """When it was written; 0 if it is not there, which it is not between two renamings."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def weights_hash(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def same_end(first: Path, second: Path) -> bool:
    """Whether two runs have equal weights, momenta, random states and logs."""
    ends = [load_checkpoint(run / "checkpoints" / "last.pt") for run in (first, second)]
    logs = [
        [{key: value for key, value in row.items() if key not in TIMINGS} for row in read_log(run / "metrics.jsonl")]
        for run in (first, second)
    ]
    states = [end.training or {} for end in ends]
    momenta = [[entry["momentum_buffer"] for entry in state["optimizer"]["state"].values()] for state in states]
    return (
        weights_hash(ends[0].model) == weights_hash(ends[1].model)
        and all(a.equal(b) for a, b in zip(*momenta, strict=True))
        and states[0]["random"][0]["cpu"].equal(states[1]["random"][0]["cpu"])
        and logs[0] == logs[1]
    )


if __name__ == "__main__":
    main()
