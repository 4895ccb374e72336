"""Checkpoints: written whole or not at all, read without running code from them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from kinet.config import Config, config_from_dict
from kinet.errors import InputError
from kinet.models.kinet import KINet, build_kinet
from kinet.models.zoo import check_fit, load_plain

FORMAT = 1
SEAL = b"kinet sha256 %s\n"
"""Stands behind the zip that ``torch.save`` wrote, with the SHA-256 of it; readers of zips pass over it."""
SEAL_LENGTH = len(SEAL % (b"0" * 64))


@dataclass
class Checkpoint:
    """What a checkpoint file holds. Only ``last.pt`` has a training state; ``best.pt`` is a model."""

    config: Config
    classes: list[str]
    scene_names: list[str]
    """The scene teacher's classes; empty without a scene branch."""
    model: dict[str, torch.Tensor]
    results: dict[str, float]
    """What the training knew of this model: epoch, val_top1 ..."""
    training: dict[str, Any] | None = None
    """What ``kinet.training.resume`` goes on with."""


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, previous: Path | None = None) -> None:
    """Write atomically; see ``write_whole``."""
    content = {
        "kinet_format": FORMAT,
        "config": asdict(checkpoint.config),
        "classes": checkpoint.classes,
        "scene_names": checkpoint.scene_names,
        "model": checkpoint.model,
        "results": checkpoint.results,
        "training": checkpoint.training,
    }
    write_whole(path, content, previous=previous)


class SealedFile:
    """A file for ``torch.save`` that takes the SHA-256 of what passes, and keeps the error that stopped it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error  # torch raises a RuntimeError of its own in place of it
            raise

    def flush(self) -> None:
        self.file.flush()


def write_whole(path: Path, content: dict[str, Any], *, previous: Path | None = None) -> None:
    """``torch.save`` with a checksum, that leaves the file that was there before where it is interrupted.

    Args:
        previous: where the file that was there before goes; None drops it.
    """
    with replacement(path, previous) as file:
        sealed = SealedFile(file)
        try:
            torch.save(content, sealed)  # type: ignore[arg-type]  # it only writes
        except RuntimeError as error:
            raise sealed.error or error from error
        file.write(SEAL % sealed.digest.hexdigest().encode())


@contextmanager
def replacement(path: Path, previous: Path | None = None) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` once it lies whole on the disk; nothing of it stays after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if previous is not None and path.exists():
        path.replace(previous)
    temporary.replace(path)
    if hasattr(os, "O_DIRECTORY"):  # where a folder can be opened, to put the renaming itself on the disk
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_whole(path: Path, what: str) -> Any:
    """The plain values of a file that ``write_whole`` wrote; one without a checksum is read as it is.

    Raises:
        InputError: the file is damaged, or loading it would run code. The line begins with ``what``.
    """
    with path.open("rb") as file:
        length = max(0, file.seek(0, os.SEEK_END) - SEAL_LENGTH)
        file.seek(length)
        seal = re.fullmatch(SEAL % b"([0-9a-f]{64})", file.read())
        if seal is not None and hash_of(file, length) != seal[1].decode():
            raise InputError(f"{what}: damaged, its SHA-256 is not the one at its end; delete it")
    return load_plain(path, what)


def hash_of(file: IO[bytes], length: int) -> str:
    """The SHA-256 of a file's first ``length`` bytes."""
    file.seek(0)
    digest = hashlib.sha256()
    while part := file.read(min(length, 2**20)):
        digest.update(part)
        length -= len(part)
    return digest.hexdigest()


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file, or ``best.pt`` of a run's folder.

    Raises:
        InputError: nothing there, not a kinet checkpoint, damaged, or holding code.
    """
    if path.is_dir():
        found = [path / "checkpoints" / name for name in ("best.pt", "last.pt")]
        present = [file for file in found if file.is_file()]
        if not present:
            raise InputError(f"{path}: no checkpoints/best.pt or last.pt in this folder; give a run or a checkpoint")
        path = present[0]
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    content = read_whole(path, str(path))
    if not isinstance(content, dict) or "kinet_format" not in content:
        raise InputError(f"{path}: not a kinet checkpoint (weights of a backbone go into model.weights)")
    if content["kinet_format"] != FORMAT:
        raise InputError(f"{path}: a checkpoint of format {content['kinet_format']}, this kinet reads format {FORMAT}")
    missing = [part.name for part in fields(Checkpoint) if part.name not in content]
    if missing:
        raise InputError(f"{path}: an incomplete checkpoint, it has no {missing[0]!r}")
    return Checkpoint(
        config_from_dict(content["config"], source=str(path)),
        content["classes"],
        content["scene_names"],
        content["model"],
        content["results"],
        content["training"],
    )


def load_model(checkpoint: Checkpoint, source: str, teachers: Mapping[str, nn.Module] | None = None) -> KINet:
    """Build the checkpoint's network and fill in its weights.

    Args:
        source: the file, for the error.
        teachers: by task, of fixed branches that were given to ``train``; their weights are the checkpoint's too.

    Raises:
        InputError: the weights are not of the network that the checkpoint's config describes.
    """
    checkpoint.config.model.weights = "none"
    model = build_kinet(checkpoint.config.model, len(checkpoint.classes), len(checkpoint.scene_names), teachers)
    check_fit(checkpoint.model, model, source)
    model.load_state_dict(checkpoint.model)
    return model
