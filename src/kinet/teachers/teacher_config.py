"""What a teacher can be told."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch

from kinet.errors import InputError
from kinet.teachers.teacher import BEST_SCENES, Task

TORCH_SUFFIXES = (".pt", ".pth", ".tar")


@dataclass(frozen=True)
class TeacherConfig:
    """A teacher's file and what need be said of it.

    Of ``onnx_teacher.KNOWN_FILES``, of checkpoints that ``kinet teach`` wrote, and of the published Places365 files
    only ``path`` need be set.
    """

    path: str
    """An ONNX file with its weights inside, or a PyTorch checkpoint (.pt, .pth, .tar)."""
    task: Task | None = None
    """human (person masks) or scene (scene classes)."""
    scale: Literal["unit", "symmetric", "imagenet", "byte"] | None = None
    """The input's range: unit [0, 1], symmetric [-1, 1], imagenet (unit, less ImageNet's mean, over its
    deviation), or byte 0..255."""
    activation: Literal["probability", "logit"] | None = None
    """What the output is. Logits pass a sigmoid (masks of one channel) or a softmax."""
    input_size: tuple[int, int] | None = None
    """Height and width that frames are stretched to. Default: what the file says; of a parser that ``kinet teach``
    wrote, the largest size of the frame's own shape inside of what it was trained on."""
    layout: Literal["NCHW", "NHWC"] | None = None
    """Where the input has its channels. Default: where the file has an axis of 3."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Their order."""
    output: str | None = None
    """The output's name. Default: the first output."""
    mask_layout: Literal["NCHW", "NHWC", "NHW"] | None = None
    """The axes of a human teacher's output. Default: the input's layout."""
    background: int = 0
    """Of a human teacher with several channels, such as one a body part: the one that is no part of a person.
    P(person) is 1 less its probability."""
    align_corners: bool | None = None
    """Whether a mask's outer rows and columns lie on the frame's border. Default: no, at centres of tiles."""
    class_names: str | None = None
    """A text file of scene names, one a line in the order of the classes; a line's first word counts."""
    best: int = BEST_SCENES
    """Scene classes kept for each frame."""
    threads: int = 0
    """Frames labelled at once. 0: one in a DataLoader's worker, elsewhere one a core. No label depends on it."""
    network: str | None = None
    """Of a PyTorch state dict: the backbone that it is of, such as resnet152. Default: what its name says."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where a PyTorch teacher runs. Its labels on another device are kept apart."""


ONNX_ONLY = ("scale", "activation", "layout", "channels", "output", "mask_layout", "background", "align_corners")
TORCH_ONLY = ("network", "device")


def refuse_settings(config: TeacherConfig, names: Sequence[str], message: str) -> None:
    """Raise InputError with ``message``, the setting's name filled in, if one of these was set."""
    for field in fields(config):
        if field.name in names and getattr(config, field.name) != field.default:
            raise InputError(f"{message.format(field.name)}; leave it out")


def scene_names(
    config: TeacherConfig, classes: int, teacher: str, known: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """The names in ``config.class_names``, else the ``known`` ones, else numbers.

    Raises:
        InputError: the file cannot be read, or has not one name a class.
    """
    if config.class_names is None:
        return known or tuple(str(number) for number in range(classes))
    names = read_class_names(Path(config.class_names).expanduser())
    if len(names) != classes:
        raise InputError(f"{config.class_names}: {len(names)} names, but {teacher} has {classes} classes")
    return names


def read_class_names(path: Path) -> tuple[str, ...]:
    """The first word of each line; Places365's ``/a/airfield 0`` gives ``airfield``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot read the class names: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the class names are not UTF-8 text") from error
    words = [line.split()[0] for line in lines if line.strip()]
    return tuple(re.sub("^/[a-z]/", "", word) for word in words)


def default_threads() -> int:
    """The cores this process may use; one in a DataLoader's worker, which has neighbours."""
    if torch.utils.data.get_worker_info() is not None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
