"""What ``kinet teach`` can be told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kinet.config import Limits, parse_config, read_config
from kinet.errors import InputError


@dataclass
class TeachTrainingConfig:
    """The optimiser and its schedule; the defaults are PSPNet's."""

    epochs: int = 30
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """``adamw`` suits small networks from random weights; ``momentum`` is its first beta."""
    lr: float = 0.01
    """At the first step, for the backbone."""
    new_lr_factor: float = 10.0
    """Times ``lr`` for the layers that no published weights fill."""
    power: float = 0.9
    """The rate falls as (1 - step / steps) to this power, the poly schedule."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """``auto`` is bf16-mixed where the device computes it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""


@dataclass
class ParserConfig:
    """A PSPNet."""

    backbone: str = "densenet121"
    """densenet121, mobilenet_v2, resnet18, 34, 50, 101, 152, 200 or resnet10_narrow."""
    weights: str = "imagenet"
    """``imagenet`` (the official file, fetched and checked), a path, or ``none``."""
    output_stride: int = 8
    """Input pixels per output pixel: 4, 8, 16 or 32. Beyond it the backbone's layers are dilated."""
    width: int = 512
    """Channels of the head."""
    auxiliary: float = 0.4
    """The weight of the auxiliary loss, which is taken from res4."""


@dataclass
class ParsingDataConfig:
    """Images and masks of labels."""

    layout: Literal["folder", "lip"] = "folder"
    """``folder``: images/NAME.jpg and masks/NAME.png. ``lip``: Look Into Person as it is shipped."""
    root: str | None = None
    """The folder of LIP."""
    train: str | None = None
    """Of the layout folder: the folder with the training images and masks."""
    val: str | None = None
    """The same for validation."""
    parts: list[str] = field(default_factory=list)
    """Empty: every label above 0 is a person (the paper merges LIP's 19 so). Else the labels are kept apart: their
    names, background first; of LIP, ``[lip]`` stands for its 20."""
    mirrored: list[tuple[int, int]] = field(default_factory=list)
    """Labels kept apart that change places in a mirror image, such as left and right arm; LIP's are known."""
    ignored: int | None = None
    """A value in the masks that is no label."""
    input_size: tuple[int, int] = (472, 472)
    """Height and width of training crops; whole images are tested just inside of it. Multiples of output_stride."""
    scales: tuple[float, float] = (0.5, 2.0)
    """From and to: 1 is the scale at which an image just fits ``input_size``."""
    flip: bool = True
    """Mirror half of the images."""
    batch_size: int = 16
    """Images in a training step, on each device; 2 or more."""
    workers: int = 2
    """Loading processes; 0 loads in the main process."""


@dataclass
class HumanTeachConfig:
    """A training of a human parsing teacher."""

    out: str = "runs/teach_human"
    """Folder of the run."""
    network: ParserConfig = field(default_factory=ParserConfig)
    data: ParsingDataConfig = field(default_factory=ParsingDataConfig)
    training: TeachTrainingConfig = field(default_factory=TeachTrainingConfig)


@dataclass
class SceneNetworkConfig:
    """A backbone whose classifier names scenes."""

    backbone: str = "resnet152"
    """Any backbone."""
    weights: str = "imagenet"
    """``imagenet`` (the official file, fetched and checked), a path, or ``none``. The classifier starts anew."""


@dataclass
class SceneDataConfig:
    """Folders of images by class."""

    train: str | None = None
    """Folder with train/<class>/ images."""
    val: str | None = None
    """The same for validation."""
    input_size: tuple[int, int] = (224, 224)
    """Height and width of training crops; whole images are tested stretched to it."""
    scales: tuple[float, float] = (0.2, 1.0)
    """From and to: the share of an image's area that a training crop has."""
    flip: bool = True
    """Mirror half of the images."""
    batch_size: int = 32
    """Images in a training step, on each device; 2 or more."""
    workers: int = 2
    """Loading processes; 0 loads in the main process."""


@dataclass
class SceneTeachConfig:
    """A training of a scene teacher."""

    out: str = "runs/teach_scene"
    """Folder of the run."""
    network: SceneNetworkConfig = field(default_factory=SceneNetworkConfig)
    data: SceneDataConfig = field(default_factory=SceneDataConfig)
    training: TeachTrainingConfig = field(default_factory=TeachTrainingConfig)


TeachConfig = HumanTeachConfig | SceneTeachConfig
KINDS: dict[str, type[HumanTeachConfig] | type[SceneTeachConfig]] = {
    "human": HumanTeachConfig,
    "scene": SceneTeachConfig,
}

COMMON_LIMITS: Limits = {
    "data.input_size": (32, math.inf),
    "data.scales": (0.01, 10),
    "data.batch_size": (2, math.inf),
    "data.workers": (0, math.inf),
    "training.epochs": (1, math.inf),
    "training.lr": (0, math.inf),
    "training.new_lr_factor": (0, math.inf),
    "training.power": (0, math.inf),
    "training.momentum": (0, 0.9999),
    "training.weight_decay": (0, math.inf),
    "training.seed": (0, 2**32 - 1),
    "training.log_every": (1, math.inf),
}
LIMITS: dict[str, Limits] = {
    "human": {
        **COMMON_LIMITS,
        "network.width": (2, math.inf),
        "network.auxiliary": (0, math.inf),
        "data.ignored": (0, 255),
    },
    "scene": {**COMMON_LIMITS, "data.scales": (0.01, 1)},
}


def load_teach_config(task: str, path: Path, arguments: Sequence[str] = ()) -> TeachConfig:
    """The config of a teacher's training; see ``kinet.config.read_config`` for the overrides and errors."""
    return checked(read_config(path, arguments, KINDS[task], LIMITS[task]), str(path))


def teach_config_from_dict(task: str, values: dict[str, Any], source: str) -> TeachConfig:
    """The same from nested plain values."""
    return checked(parse_config(values, source, KINDS[task], LIMITS[task]), source)


def checked(config: TeachConfig, source: str) -> TeachConfig:
    """What limits of single numbers don't say."""
    least, most = config.data.scales
    if least > most:
        raise InputError(f"{source}: data.scales: {least} is above {most}; give the smaller one first")
    if isinstance(config, HumanTeachConfig):
        stride = config.network.output_stride
        if stride not in (4, 8, 16, 32):
            raise InputError(f"{source}: network.output_stride: {stride} is none of 4, 8, 16, 32")
        if any(side % stride for side in config.data.input_size):
            raise InputError(f"{source}: data.input_size: {config.data.input_size} are not multiples of {stride}")
    return config
