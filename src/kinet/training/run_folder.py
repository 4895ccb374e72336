"""The folder of a run: config, log, checkpoints, result."""

from __future__ import annotations

import csv
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from kinet.config import Config
from kinet.errors import InputError
from kinet.training.checkpoint import Checkpoint, load_checkpoint

LIBRARIES = ("kinet-action", "torch", "numpy", "lightning-fabric", "av", "simplejpeg", "onnxruntime")


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = folder / "checkpoints" / "last.pt"
        self.best = folder / "checkpoints" / "best.pt"
        self.log = folder / "metrics.jsonl"
        self.result = folder / "result.json"
        self.skip_list = folder / "skipped.csv"
        self.skipped: dict[str, str] = {}
        """Names of the clips that could not be read, with the cause."""

    def find_checkpoint(self, resume: str | None) -> Checkpoint | None:
        """The checkpoint that a training goes on from; None starts anew.

        Raises:
            InputError: without ``resume``, the folder holds a run; or the checkpoint can't be resumed.
        """
        if resume is None:
            if self.log.exists() or self.last.exists():
                raise InputError(f"{self.folder}: holds a run; go on with --resume auto, or choose another --out")
            return None
        if resume == "auto" and not self.last.exists():
            return None
        path = self.last if resume == "auto" else Path(resume)
        checkpoint = load_checkpoint(path)
        if checkpoint.training is None:
            raise InputError(f"{path}: holds a model without its training state; resume from last.pt")
        return checkpoint

    def begin(self, config: Config, steps_done: int) -> None:
        """Write what the run is; of the run that it goes on with, drop log lines behind the checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(yaml.safe_dump(to_plain(asdict(config)), sort_keys=False))
        write_json(self.folder / "environment.json", environment())
        if self.log.exists():
            rows = [row for row in read_log(self.log) if row["step"] <= steps_done]
            self.log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if steps_done and self.skip_list.exists():
            with self.skip_list.open(newline="", encoding="utf-8") as file:
                self.skipped = {row["path"]: row["cause"] for row in csv.DictReader(file)}

    def append(self, row: dict[str, float]) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def skip(self, clips: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Note unreadable clips (name, cause) in skipped.csv; returns those that are new."""
        new = [(name, cause) for name, cause in clips if name not in self.skipped]
        if new:
            self.skipped.update(new)
            write_skipped(self.skip_list, list(self.skipped.items()))
        return new


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_skipped(path: Path, skipped: Sequence[tuple[str, str]]) -> None:
    """A csv of the clips that could not be read: path, cause."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "cause"])
        writer.writerows(skipped)


def write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def to_plain(value: Any) -> Any:
    """Tuples as lists, so that safe YAML can hold them."""
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def environment() -> dict[str, Any]:
    """Versions, device and command of this process."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = "not installed"
    return {
        "command": sys.argv[1:],
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
