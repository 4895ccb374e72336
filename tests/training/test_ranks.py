"""Two processes on the CPU, as ``torchrun`` starts them: none waits for the other in vain, and one speaks."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from kinet.training.position import Means, merged
from kinet.training.run_folder import read_log, to_plain

ToySet = Any  # tests/conftest.py's, which tests cannot import


def test_two_ranks_pass_over_a_batch_that_one_cannot_read(toy: ToySet, tmp_path: Path) -> None:
    """With one clip a batch, the rank that meets the bad one has none in that step."""
    clips = toy.manifest(tmp_path / "train.csv", (tmp_path / "missing.mp4", "diving"), clips=12)
    config = toy.tsn(tmp_path / "run")
    config = replace(
        config,
        data=replace(config.data, train=str(clips), batch_size=1),
        training=replace(config.training, epochs=1, checkpoint_minutes=0.02),
    )
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_plain(asdict(config))))
    command = ["-m", "kinet.cli", "train", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert (result["clips"], result["skipped"], result["epochs"]) == (13, 1, 1)
    with (tmp_path / "run" / "skipped.csv").open(newline="") as skipped:
        assert list(csv.reader(skipped)) == [["path", "cause"], [str(tmp_path / "missing.mp4"), "missing"]]
    assert done.stderr.count("skipped ") == 1
    rows = read_log(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert all(row["loss"] > 0 for row in rows)
    assert "val_top1" in rows[-1]
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2


def test_means_over_ranks_count_every_value_once() -> None:
    parts, together = [Means(), Means()], Means()
    for number, value in enumerate((1.0, 2.0, 6.0)):
        parts[number % 2].add({"loss": value})
        together.add({"loss": value})
    assert merged(part.totals() for part in parts).take() == together.take() == {"loss": 3.0}
