"""Two processes train together, one is killed; the other must stop soon and say so, and the pair go on.

    python studies/reliability/ranks.py --shared FOLDER

The training is that of kills.py on 64 clips, with one that is missing, under ``torchrun --nproc-per-node 2``. Writes
ranks.json beside this file: seconds from the kill to the other's end (of it, and of torchrun), its message, and whether
the pair that went on has, bit for bit, the weights of one that was not interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import yaml
from kills import RUNS, small_training, weights_hash

from kinet.config import Config
from kinet.training.checkpoint import load_checkpoint
from kinet.training.run_folder import read_log, to_plain, write_json

RESULTS = Path(__file__).with_name("ranks.json")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.clips, options.epochs = 64, 3
    shutil.rmtree(RUNS, ignore_errors=True)
    config = small_training(options)
    with (RUNS / "train.csv").open("a") as manifest:
        manifest.write("missing.mp4," + (RUNS / "train.csv").read_text().splitlines()[1].split(",")[1] + "\n")
    whole, broken = replace(config, out=str(RUNS / "whole")), replace(config, out=str(RUNS / "broken"))

    assert start(whole).wait() == 0
    pair = start(broken)
    log = Path(broken.out) / "metrics.jsonl"
    while not log.exists() or len(read_log(log)) < 3:
        time.sleep(0.05)
    first, second = ranks_of(pair.pid)
    os.kill(second, signal.SIGKILL)
    killed = time.monotonic()
    while alive(first):
        time.sleep(0.05)
    other_stopped = time.monotonic() - killed
    pair.wait()
    ended = time.monotonic() - killed
    told = (RUNS / "broken.stderr").read_text()
    resumed = start(broken).wait()
    result = {
        "other_stopped_seconds": round(other_stopped, 1),
        "torchrun_ended_seconds": round(ended, 1),
        "message": next((line for line in told.splitlines() if line.startswith("kinet: ")), None),
        "resumed": resumed == 0,
        "identical": final_weights(whole) == final_weights(broken),
    }
    write_json(options.out, result)
    print(json.dumps(result))


def start(config: Config) -> subprocess.Popen[bytes]:
    file = Path(config.out).with_suffix(".yaml")
    file.write_text(yaml.safe_dump(to_plain(asdict(config))))
    with Path(config.out).with_suffix(".stderr").open("ab") as errors:
        return subprocess.Popen(
            [*TORCHRUN, "-m", "kinet.cli", "train", str(file), "--resume", "auto"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def final_weights(config: Config) -> str:
    return weights_hash(load_checkpoint(Path(config.out) / "checkpoints" / "last.pt").model)


def ranks_of(parent: int) -> list[int]:
    """The training processes that torchrun started, by rank."""
    children = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    ranks = {}
    for child in children:
        environment = dict(
            pair.split("=", 1) for pair in Path(f"/proc/{child}/environ").read_text().split("\0") if "=" in pair
        )
        if "RANK" in environment:
            ranks[int(environment["RANK"])] = child
    return [ranks[0], ranks[1]]


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


if __name__ == "__main__":
    main()
