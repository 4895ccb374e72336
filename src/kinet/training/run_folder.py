"""The folder of a run: config, log, checkpoints, result."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from lightning_fabric import Fabric
from rich.console import Console

from kinet.errors import InputError
from kinet.training.checkpoint import Checkpoint, load_checkpoint, replacement
from kinet.training.ranks import on_rank_zero

console = Console(stderr=True)
State = TypeVar("State")
LIBRARIES = ("kinet-action", "torch", "numpy", "lightning-fabric", "av", "simplejpeg", "onnxruntime")


class RunFolder:
    """Paths and files of one run. Of several processes, the first alone writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = folder / "checkpoints" / "last.pt"
        self.previous = folder / "checkpoints" / "previous.pt"
        """The one before ``last``."""
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

        def load(path: Path) -> Checkpoint:
            checkpoint = load_checkpoint(path)
            if checkpoint.training is None:
                raise InputError(f"{path}: holds a model without its training state; resume from last.pt")
            return checkpoint

        return self.find_resumed(resume, load)

    def find_resumed(self, resume: str | None, load: Callable[[Path], State]) -> State | None:
        """What ``load`` reads from the file that ``resume`` (auto, a path, or None) stands for.

        ``auto`` is the last checkpoint, or the one before if that is damaged, which is said on stderr. See
        ``find_checkpoint`` for the errors.
        """
        files = [file for file in (self.last, self.previous) if file.exists()]
        if resume is None:
            if self.log.exists() or files:
                raise InputError(f"{self.folder}: holds a run; go on with --resume auto, or choose another --out")
            return None
        if resume != "auto":
            return load(Path(resume))
        for file, older in itertools.pairwise(files):
            try:
                return load(file)
            except InputError as error:
                tell(f"{error}; going on from the one before, {older}")
        return load(files[-1]) if files else None

    def begin(self, config: Any, fabric: Fabric, steps: int, epochs: int) -> None:
        """Write what the run is; of the run that it goes on with, drop log lines behind the checkpoint.

        Args:
            steps: done at the checkpoint, and so are ``epochs``.
        """
        if steps and self.skip_list.exists():
            with self.skip_list.open(newline="", encoding="utf-8") as file:
                self.skipped = {row["path"]: row["cause"] for row in csv.DictReader(file)}
        on_rank_zero(self.write_beginning)(config, environment() | how_it_runs(fabric), steps, epochs)

    def write_beginning(self, config: Any, described: dict[str, Any], steps: int, epochs: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "config.yaml", yaml.safe_dump(to_plain(asdict(config)), sort_keys=False))
        write_json(self.folder / "environment.json", described)
        if self.log.exists():
            rows = [row for row in read_log(self.log) if row["step"] <= steps and row.get("epoch", 0) <= epochs]
            write_text(self.log, "".join(json.dumps(row) + "\n" for row in rows))
        if not self.skipped:
            self.skip_list.unlink(missing_ok=True)  # of a start without a checkpoint

    @on_rank_zero
    def append(self, row: dict[str, float]) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def skip(self, clips: Sequence[tuple[str, str]]) -> None:
        """Note unreadable clips (name, cause) in skipped.csv, and say on stderr which are new."""
        new = [(name, cause) for name, cause in clips if name not in self.skipped]
        if new:
            self.skipped.update(new)
            on_rank_zero(write_skipped)(self.skip_list, list(self.skipped.items()))
        for name, cause in new:
            tell(f"skipped {name}: {cause}")


@on_rank_zero
def tell(line: str) -> None:
    """Something that went wrong and does not stop the training, on stderr."""
    console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)


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
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "cause"])
    writer.writerows(skipped)
    write_text(path, text.getvalue())


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replacement(path) as file:
        file.write(text.encode())


def to_plain(value: Any) -> Any:
    """Tuples as lists, so that safe YAML can hold them."""
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def how_it_runs(fabric: Fabric) -> dict[str, Any]:
    """What ``auto`` was found to be."""
    return {
        "device": fabric.device.type,
        "precision": fabric.strategy.precision.precision,
        "processes": fabric.world_size,
    }


def environment() -> dict[str, Any]:
    """Versions, machine and command of this process."""
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
