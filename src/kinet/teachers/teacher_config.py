"""What a teacher can be told."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from kinet.errors import InputError
from kinet.teachers.teacher import BEST_SCENES, Task

TORCH_SUFFIXES = (".pt", ".pth", ".tar")
HUGGING_FACE = "hf:"
TORCH_HUB = "hub:"


@dataclass(frozen=True)
class TeacherConfig:
    """A teacher's file and what need be said of it.

    Of ``onnx_teacher.KNOWN_FILES``, of checkpoints that ``kinet teach`` wrote, and of the published Places365 files
    only ``path`` need be set.
    """

    path: str
    """An ONNX file with its weights inside, a PyTorch checkpoint (.pt, .pth, .tar), ``hf:OWNER/NAME[@REVISION]`` or
    ``hf:FOLDER`` (Hugging Face), ``hub:OWNER/NAME:REF:MODEL`` or ``hub:FOLDER:MODEL`` (torch.hub)."""
    task: Task | None = None
    """human (person masks) or scene (scene classes)."""
    scale: Literal["unit", "symmetric", "imagenet", "byte"] | None = None
    """The input's range: unit [0, 1], symmetric [-1, 1], imagenet (unit, less ImageNet's mean, over its
    deviation), or byte 0..255."""
    activation: Literal["probability", "logit"] | None = None
    """What the output is. Logits pass a sigmoid (masks of one channel) or a softmax."""
    input_size: tuple[int, int] | None = None
    """Height and width that frames are stretched to. Default: what the file says; of a parser that ``kinet teach``
    wrote, the largest size of the frame's own shape inside of what it was trained on; of one from Hugging Face, what
    its preprocessor says."""
    layout: Literal["NCHW", "NHWC"] | None = None
    """Where the input has its channels. Default: where the file has an axis of 3."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Their order."""
    output: str | None = None
    """The output's name. Default: an ONNX file's first, a torch.hub model's ``out`` or ``logits``."""
    mask_layout: Literal["NCHW", "NHWC", "NHW"] | None = None
    """The axes of a human teacher's output. Default: the input's layout."""
    background: int = 0
    """Of a human teacher with several channels, such as one a body part: the one that is no part of a person.
    P(person) is 1 less its probability."""
    person: tuple[int, ...] | None = None
    """Of a human teacher whose channels are all sorts of things: those that are a person, such as [15] of Pascal VOC's
    21. P(person) is the sum of their probabilities."""
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
    batch: int = 1
    """Frames that go through a PyTorch teacher at once. With 1, a label depends on its frame alone, to the last bit;
    more is faster on a GPU, and its labels are kept apart."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Of a PyTorch teacher's sums. Labels made in bf16 are kept apart."""
    trust: bool = False
    """Allow torch.hub to run the code of that repository on this machine."""
    arguments: dict[str, Any] | None = None
    """What the torch.hub model is called with, such as {pretrained: true}."""


READING = ("activation", "layout", "mask_layout", "align_corners")
ONNX_ONLY = (*READING, "scale", "channels", "output", "background", "person")
"""Settings that mean nothing to a checkpoint."""
TORCH_ONLY = ("network", "device", "batch", "precision")
HUB_ONLY = ("trust", "arguments")


def refuse_settings(config: TeacherConfig, names: Sequence[str], message: str) -> None:
    """Raise InputError with ``message``, the setting's name filled in, if one of these was set."""
    for field in fields(config):
        if field.name in names and getattr(config, field.name) != field.default:
            raise InputError(f"{message.format(field.name)}; leave it out")


def check_numbers(config: TeacherConfig, name: str) -> None:
    """Raise InputError on counts that are none."""
    if config.best < 1 or config.batch < 1 or config.threads < 0:
        raise InputError(f"{name}: set best to 1 or more, batch to 1 or more and threads to 0 or more")


def check_parts(config: TeacherConfig, channels: int, name: str, output: str) -> None:
    """Raise InputError where ``background`` or ``person`` is none of a human teacher's ``channels`` in ``output``."""
    setting = "background" if config.person is None else "person"
    numbers = (config.background,) if config.person is None else config.person
    if not numbers:
        raise InputError(f"{name}: person is empty; leave it out")
    for number in numbers:
        if not 0 <= number < channels and (channels > 1 or setting == "person"):
            raise InputError(f"{name}: {setting} {number} is none of the {channels} channels of {output}")


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
