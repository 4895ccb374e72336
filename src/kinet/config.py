"""What a run can be told: typed dataclasses that YAML files and the command line fill in."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from kinet.errors import InputError
from kinet.teachers.teacher_config import TeacherConfig


@dataclass
class ModelConfig:
    """The network. With ``auxiliaries: []``, ``cbi: []`` and ``akg: none`` it is TSN."""

    backbone: str = "resnet50"
    """resnet18, 34, 50, 101, 152, 200, bn_inception, densenet121, inception_v3 or mobilenet_v2."""
    weights: str = "imagenet"
    """``imagenet`` (the official file, fetched and checked), ``imagenet_v2``, a path, or ``none``."""
    auxiliaries: list[Literal["scene", "human"]] = field(default_factory=lambda: ["scene", "human"])
    """The auxiliary branches."""
    share_until: str = "res3"
    """The last stage or block that the branches share."""
    aux_width: float = 1.0
    """Width inside the auxiliary branches' blocks, above 0 and up to 1."""
    cbi: list[str] = field(default_factory=lambda: ["res4", "res5_2"])
    """Blocks behind which a CBI sits; a stage's name stands for its last block."""
    cbi_gate: Literal["product", "sigmoid"] = "product"
    """What multiplies the action features: the auxiliary features, or their sigmoid."""
    akg: Literal["dot", "embedded", "concatenation", "none"] = "dot"
    """The graph's relation function (Eq. 1, 2, 3)."""
    akg_scale: bool = False
    """Divide dot products by the square root of their dimension."""
    akg_residual: bool = False
    """Add an action node to what it gathered."""
    segments: int = 3
    """N_seg: frames of a clip in training, and of a window in testing."""
    dropout: float = 0.5
    """Before the action classifier and the scene classifier."""


@dataclass
class DataConfig:
    """Where the clips are and how frames are cut."""

    train: str | None = None
    """Manifest of the training clips: a csv with the columns path, label."""
    val: str | None = None
    """Manifest of the clips that choose the best epoch."""
    test: str | None = None
    """Manifest of the clips that ``kinet test`` takes by default."""
    root: str | None = None
    """Folder that the manifests' paths are relative to; by default each manifest's own."""
    pack: str | list[str] | None = None
    """Folder that ``kinet pack`` made, or several: all clips are read from there, by the paths that the manifests give
    them, and so are their pseudo labels. None: the original files."""
    frame_size: tuple[int, int] = (256, 340)
    """Height and width that every frame counts as before cropping, in pixels."""
    input_size: int = 224
    """Side of the square that the network sees in training, in pixels."""
    test_input_size: int | None = None
    """Side of the square that it sees in validation and testing; None is ``input_size``. Up to the frame's shorter
    side. Somewhat more than ``input_size`` makes up for objects appearing larger in multi-scale crops than in test
    crops (Touvron et al., "Fixing the train-test resolution discrepancy", NeurIPS 2019)."""
    scales: list[float] = field(default_factory=lambda: [1.0, 0.875, 0.75, 0.66])
    """Sides of the multi-scale crop, as shares of the frame's shorter side."""
    flip: bool = True
    """Mirror half of the training clips."""
    batch_size: int = 32
    """Clips in a training step, on each device."""
    workers: int = 2
    """Loading processes; 0 loads in the main process."""


@dataclass
class TeachersConfig:
    """The frozen teachers, whose pseudo labels the auxiliary branches learn."""

    human: TeacherConfig | None = None
    """Finds people."""
    scene: TeacherConfig | None = None
    """Names the scene."""
    labels: Literal["cache", "on_the_fly"] = "cache"
    """``cache``: every frame of the training clips is labelled once, before training. ``on_the_fly``: the sampled
    frames are, each time."""
    cache: str = "runs/labels"
    """Folder of the cache. Runs can share it: entries are keyed by teacher and clip."""


@dataclass
class LossConfig:
    """Eq. 6: L = action * L_action + human * L_human + scene * L_scene."""

    action: float = 1.0
    human: float = 0.01
    scene: float = 0.01
    soft_labels: bool = False
    """Learn the teachers' probabilities in place of their decisions."""
    temperature: float = 1.0
    """Divides the logits of teacher and student with soft labels."""


@dataclass
class TrainingConfig:
    """The optimiser and its schedule; the defaults are the paper's for Kinetics."""

    epochs: int = 70
    lr: float = 0.01
    new_layers_lr: float = 1.0
    """Multiplies the rate of the layers without pretrained weights: CBI, graph, human decoder, classifiers."""
    momentum: float = 0.9
    weight_decay: float = 1e-5
    milestones: list[int] = field(default_factory=lambda: [20, 40, 60])
    """Epochs after which the learning rate drops by 10."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    clip_norm: float = 40.0
    """Largest norm of the gradient."""
    partial_bn: bool = False
    """Freeze all batch normalisations of the backbone but the first."""
    freeze_until: str | None = None
    """The last stage or block of the shared layers that is kept as it was loaded."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """``auto`` is bf16-mixed where the device computes it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    validate_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""


@dataclass
class Config:
    """One experiment."""

    out: str = "runs/kinet"
    """Folder of the run: config, log, checkpoints."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    teachers: TeachersConfig = field(default_factory=TeachersConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


LIMITS = {
    "data.frame_size": (1, math.inf),
    "data.input_size": (1, math.inf),
    "data.test_input_size": (1, math.inf),
    "data.scales": (0.01, 1),
    "data.batch_size": (1, math.inf),
    "data.workers": (0, math.inf),
    "loss.action": (0, math.inf),
    "loss.human": (0, math.inf),
    "loss.scene": (0, math.inf),
    "loss.temperature": (0.01, math.inf),
    "training.epochs": (1, math.inf),
    "training.lr": (0, math.inf),
    "training.new_layers_lr": (0, math.inf),
    "training.momentum": (0, 0.9999),
    "training.weight_decay": (0, math.inf),
    "training.milestones": (0, math.inf),
    "training.warmup_steps": (0, math.inf),
    "training.clip_norm": (1e-6, math.inf),
    "training.seed": (0, 2**32 - 1),
    "training.validate_every": (1, math.inf),
    "training.log_every": (1, math.inf),
}
"""The least and the highest value of numbers, and of each number in lists; ``build_kinet`` knows those of the model."""

Limits = dict[str, tuple[float, float]]
AnyConfig = TypeVar("AnyConfig")
"""``Config``, or a dataclass of sections like it."""


def load_config(path: Path, arguments: Sequence[str] = ()) -> Config:
    """The config of a training of KINet; see ``read_config``."""
    config = read_config(path, arguments, Config, LIMITS)
    check_scales(config.data.scales, str(path))
    return config


def read_config(path: Path, arguments: Sequence[str], kind: type[AnyConfig], limits: Limits) -> AnyConfig:
    """A config from a YAML file and ``--key value`` overrides such as ``--training.lr 0.005``.

    Raises:
        InputError: no such file, not YAML, an unknown key (named, with the nearest right one) or a wrong value.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such config")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    values = {} if values is None else values
    check_keys(values, kind, str(path))
    for key, value in overrides_of(arguments):
        put(values, key, value, kind)
    return parse_config(values, f"{path} and command line" if arguments else str(path), kind, limits)


def config_from_dict(values: dict[str, Any], source: str) -> Config:
    """``parse_config`` of a training of KINet."""
    config = parse_config(values, source, Config, LIMITS)
    check_scales(config.data.scales, source)
    return config


def parse_config(values: dict[str, Any], source: str, kind: type[AnyConfig], limits: Limits) -> AnyConfig:
    """A config from nested plain values; see ``read_config`` for the errors. ``source`` stands in them."""
    check_keys(values, kind, source)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        parsed = parser.instantiate(parser.parse_object(values))
    except (ArgumentError, TypeError, ValueError) as error:
        lines = [line.strip(" -\n") for line in str(error).splitlines()]
        raise InputError(f"{source}: {' '.join(line for line in lines if line)}") from error
    config = kind(**parsed)
    check_numbers(config, source, limits)
    return config


def check_scales(scales: Sequence[float], source: str) -> None:
    if not scales:
        raise InputError(f"{source}: data.scales: is empty; [1.0] crops at one scale")


def check_numbers(config: Any, source: str, limits: Limits) -> None:
    """Refuse numbers outside of ``limits``, whose keys are ``section.name``."""
    for key, (least, most) in limits.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        for number in value if isinstance(value, list | tuple) else [value]:
            if number is not None and not least <= number <= most:
                wanted = f"{least} or more" if most == math.inf else f"{least} to {most}"
                raise InputError(f"{source}: {key}: {number} is out of range; give {wanted}")


def overrides_of(arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Pairs from ``--key value`` and ``--key=value``; a value is read as YAML."""
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("--"):
            raise InputError(f"command line: expected --key value, got {argument!r}")
        key, equals, text = argument[2:].partition("=")
        if not equals:
            if not waiting:
                raise InputError(f"command line: --{key} has no value")
            text = waiting.pop(0)
        try:
            yield key, yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"command line: --{key}: {text!r} is not YAML") from error


def put(values: dict[str, Any], key: str, value: Any, kind: Any) -> None:
    """Set ``a.b.c`` in nested dicts."""
    *parents, last = key.split(".")
    nested: Any = value
    for name in reversed([*parents, last]):
        nested = {name: nested}
    check_keys(nested, kind, "command line")
    for name in parents:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    values[last] = value


def check_keys(values: Any, kind: Any, where: str) -> None:
    """Refuse keys that the dataclass ``kind`` does not have, naming the nearest one that it has, and blank ones."""
    dataclasses = [option for option in (kind, *get_args(kind)) if is_dataclass(option)]
    if not dataclasses or values is None:
        return
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected keys and values, got {values!r}")
    hints = get_type_hints(dataclasses[0])
    for key, value in values.items():
        if key not in hints:
            nearest = difflib.get_close_matches(str(key), hints, n=1, cutoff=0)[0]
            raise InputError(f"{where}: unknown key {key!r}; nearest is {nearest!r}")
        if value is None and type(None) not in get_args(hints[key]):
            raise InputError(f"{where}: {key} has no value; leave its line out to have the default")
        check_keys(value, hints[key], f"{where}: {key}")
