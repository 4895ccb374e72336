"""What the studies of teachers share: one training by ``kinet teach``, and the summary."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from kinet.training.run_folder import read_log, write_json

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent.parent / "configs/teach"


def teach_human(config: Path, run: Path, arguments: list[Any]) -> dict[str, Any]:
    """Train a parser in the folder ``run``, or go on there; what the epochs reached, with shares from 0 to 1."""
    command = [
        sys.executable,
        "-m",
        "kinet.cli",
        "teach",
        "human",
        config,
        "--resume",
        "auto",
        "--out",
        run,
        *arguments,
    ]
    started = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True)
    rows = [row for row in read_log(run / "metrics.jsonl") if "epoch" in row]
    return {
        "mean_iou": round(rows[-1]["val_mean_iou"] / 100, 4),
        "best_mean_iou": round(max(row["val_mean_iou"] for row in rows) / 100, 4),
        "pixel_accuracy": round(rows[-1]["val_pixel_accuracy"] / 100, 4),
        "epochs": len(rows),
        "first_loss": round(rows[0]["loss"], 4),
        "last_loss": round(rows[-1]["loss"], 4),
        "seconds": round(rows[-1]["seconds"]),
        "wall_seconds": round(time.perf_counter() - started),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def add_to_summary(**figures: float) -> None:
    """Set keys of summary.json beside this file; the others stay."""
    path = HERE / "summary.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, known | {name: round(value, 4) for name, value in figures.items()})
