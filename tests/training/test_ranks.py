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

import torch
import yaml

from kinet.training.checkpoint import load_checkpoint
from kinet.training.engine import train
from kinet.training.position import Means, merged
from kinet.training.run_folder import read_log, to_plain

ToySet = Any  # tests/conftest.py's, which tests cannot import


def test_two_ranks_learn_what_one_does_though_one_has_nothing_to_read(toy: ToySet, tmp_path: Path) -> None:
    """With one clip a batch, the rank that meets the bad one has none in that step.

    Batch normalisation is frozen, which would see other batches, and there is no dropout, which would draw others.
    """
    clips = toy.manifest(tmp_path / "train.csv", (tmp_path / "missing.mp4", "diving"), clips=11)
    config = toy.tsn(tmp_path / "alone")
    config = replace(
        config,
        model=replace(config.model, dropout=0.0),
        data=replace(config.data, train=str(clips), batch_size=2),
        training=replace(config.training, epochs=1, freeze_until="stem", partial_bn=True, checkpoint_minutes=0.02),
    )
    train(config)
    config = replace(config, out=str(tmp_path / "run"), data=replace(config.data, batch_size=1))
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
    assert (result["clips"], result["skipped"], result["epochs"]) == (12, 1, 1)
    with (tmp_path / "run" / "skipped.csv").open(newline="") as skipped:
        assert list(csv.reader(skipped)) == [["path", "cause"], [str(tmp_path / "missing.mp4"), "missing"]]
    assert done.stderr.count("skipped ") == 1
    rows = read_log(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 6]
    assert all(row["loss"] > 0 for row in rows)
    assert "val_top1" in rows[-1]
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2
    alone, together = (load_checkpoint(tmp_path / run / "checkpoints" / "last.pt").model for run in ("alone", "run"))
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert rows[-1]["val_top1"] == read_log(tmp_path / "alone" / "metrics.jsonl")[-1]["val_top1"]


def test_means_over_ranks_count_every_value_once() -> None:
    parts, together = [Means(), Means()], Means()
    for number, value in enumerate((1.0, 2.0, 6.0)):
        parts[number % 2].add({"loss": value})
        together.add({"loss": value})
    assert merged(part.totals() for part in parts).take() == together.take() == {"loss": 3.0}
