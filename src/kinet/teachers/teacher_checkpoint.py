"""Checkpoints of teachers that ``kinet teach`` trained, and their networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinet.config import TrunkConfig
from kinet.errors import InputError
from kinet.models.backbone import Backbone
from kinet.models.pspnet import PSPNet
from kinet.models.zoo import BACKBONES, build_backbone, check_fit
from kinet.teachers.teach_config import KINDS, HumanTeachConfig, SceneTeachConfig, TeachConfig, teach_config_from_dict
from kinet.teachers.teacher import Task
from kinet.training.checkpoint import read_whole, write_whole

FORMAT = 1


class SceneNet(nn.Module):
    """Scene scores (B, S) of images (B, 3, H, W) uint8 RGB."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.trunk = TrunkConfig(backbone.name)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = (images.float() / 255 - self.mean) / self.std
        scores: Tensor = self.backbone(x.contiguous(memory_format=torch.channels_last))
        return scores

    def feature_blocks(self) -> dict[str, nn.Module]:
        """The backbone's blocks by name, in order, the last feature map's last."""
        return {block.name: block.module for block in self.backbone.blocks()}

    def new_layers(self) -> list[nn.Module]:
        """The classifier, which published weights do not fill."""
        return [module for module in self.backbone.modules() if isinstance(module, nn.Linear)]


@dataclass
class TeacherCheckpoint:
    """What the file holds. Only ``last.pt`` has a training state; ``best.pt`` is a teacher."""

    config: TeachConfig
    class_names: list[str]
    model: dict[str, Tensor]
    results: dict[str, float]
    training: dict[str, Any] | None = None

    @property
    def task(self) -> Task:
        return "human" if isinstance(self.config, HumanTeachConfig) else "scene"


def save_teacher(path: Path, checkpoint: TeacherCheckpoint, *, previous: Path | None = None) -> None:
    """Write atomically; see ``write_whole``."""
    content = {
        "kinet_teacher": FORMAT,
        "task": checkpoint.task,
        "config": asdict(checkpoint.config),
        "class_names": checkpoint.class_names,
        "model": checkpoint.model,
        "results": checkpoint.results,
        "training": checkpoint.training,
    }
    write_whole(path, content, previous=previous)


def load_teacher(path: Path) -> TeacherCheckpoint:
    """Read a teacher's checkpoint.

    Raises:
        InputError: not there, not such a checkpoint, damaged, or holding code.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    checkpoint = teacher_in(read_whole(path, str(path)), path)
    if checkpoint is None:
        raise InputError(f"{path}: not a checkpoint that kinet teach wrote")
    return checkpoint


def teacher_in(content: Any, path: Path) -> TeacherCheckpoint | None:
    """The checkpoint that a file's plain values are; None if they are something else. Raises InputError."""
    if not isinstance(content, Mapping) or "kinet_teacher" not in content:
        return None
    if content["kinet_teacher"] != FORMAT:
        raise InputError(f"{path}: a teacher of format {content['kinet_teacher']}, this kinet reads format {FORMAT}")
    missing = [key for key in ("task", "config", "class_names", "model", "results", "training") if key not in content]
    if missing or content["task"] not in KINDS:
        raise InputError(f"{path}: an incomplete teacher, it has no {missing[0] if missing else 'known task'!r}")
    config = teach_config_from_dict(content["task"], content["config"], str(path))
    return TeacherCheckpoint(config, content["class_names"], content["model"], content["results"], content["training"])


def load_network(checkpoint: TeacherCheckpoint, source: str) -> PSPNet | SceneNet:
    """The checkpoint's network with its weights. ``source`` stands in the InputError of weights that don't fit."""
    checkpoint.config.network.weights = "none"
    network = build_network(checkpoint.config, len(checkpoint.class_names))
    check_fit(checkpoint.model, network, source)
    network.load_state_dict(checkpoint.model)
    return network


def build_network(config: TeachConfig, classes: int) -> PSPNet | SceneNet:
    """The network that a config asks for, with the weights that it asks for.

    Raises:
        InputError: an unknown or unfit backbone, or weights that can't be had.
    """
    network = config.network
    backbone = build_backbone(network.backbone, weights=network.weights)
    if isinstance(config, SceneTeachConfig):
        return SceneNet(with_classes(network.backbone, backbone, classes))
    assert isinstance(config, HumanTeachConfig)
    return PSPNet(backbone, classes, config.network.output_stride, config.network.width)


def with_classes(name: str, backbone: Backbone, classes: int) -> Backbone:
    """The same backbone with a new classifier of ``classes``."""
    changed = BACKBONES[name](classes=classes)
    fresh = changed.state_dict()
    kept = {key: tensor for key, tensor in backbone.state_dict().items() if tensor.shape == fresh[key].shape}
    changed.load_state_dict(fresh | kept)
    return changed
