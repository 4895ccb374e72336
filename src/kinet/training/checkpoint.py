"""Checkpoints: written whole or not at all, read without running code from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kinet.config import Config, config_from_dict
from kinet.errors import InputError
from kinet.models.kinet import KINet, build_kinet
from kinet.models.zoo import check_fit, load_plain

FORMAT = 1


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
    """Optimiser, position and random state, for resuming."""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: an interruption leaves the file that was there before."""
    content = {
        "kinet_format": FORMAT,
        "config": asdict(checkpoint.config),
        "classes": checkpoint.classes,
        "scene_names": checkpoint.scene_names,
        "model": checkpoint.model,
        "results": checkpoint.results,
        "training": checkpoint.training,
    }
    write_whole(path, content)


def write_whole(path: Path, content: dict[str, Any]) -> None:
    """``torch.save`` that leaves the file that was there before where it is interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


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
    content = load_plain(path, str(path))
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
