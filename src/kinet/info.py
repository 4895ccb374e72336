"""What ``kinet info`` shows: parameters and operations of a network by part, and of the paper's readings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from kinet.config import Config, ModelConfig
from kinet.evaluation.protocol import eval_mode
from kinet.models.kinet import KINet, build_kinet
from kinet.teachers.fixed_teacher import open_fixed_teachers
from kinet.training.optim import freeze_parameters

PLACES365 = 365
KINETICS400 = 400
TSN = {"auxiliaries": [], "cbi": [], "akg": "none"}
LAST_BLOCK = {"share_until": "res4_5"}
LAST_STAGE = {"share_until": "res4", "cbi": ["res5_2"]}
READINGS: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("TSN-ResNet50", TSN, 24.4),
    ("TSN-ResNet200", TSN | {"backbone": "resnet200"}, 64.5),
    ("branches from res4 (the default)", {}, 56.9),
    ("branches from res4, auxiliaries 1/2 wide", {"aux_width": 0.5}, 56.9),
    ("branches from res4, auxiliaries 1/4 wide", {"aux_width": 0.25}, 56.9),
    ("branches from res4_6", LAST_BLOCK, 56.9),
    ("branches from res4_6, auxiliaries 1/2 wide", LAST_BLOCK | {"aux_width": 0.5}, 56.9),
    ("branches from res4_6, auxiliaries 1/4 wide", LAST_BLOCK | {"aux_width": 0.25}, 56.9),
    ("branches from res5, no CBI in res4", LAST_STAGE, 56.9),
    ("branches from res5, auxiliaries 1/2 wide", LAST_STAGE | {"aux_width": 0.5}, 56.9),
    ("branches from res5, auxiliaries 1/4 wide", LAST_STAGE | {"aux_width": 0.25}, 56.9),
)
"""Name, settings beside the defaults, and the parameters that Table 2 gives, in millions."""


@dataclass(frozen=True, slots=True)
class PartCost:
    """One part of the network, in the forward pass."""

    part: str
    parameters: int
    macs: int
    """Multiply-adds for one clip of N_seg frames. FLOPs are twice as many."""
    inference: bool
    """Whether it stays at inference; the human decoder and the scene classifier do not."""
    frozen: int = 0
    """Those of the parameters that training holds: all of fixed teachers, and what ``training`` freezes."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Parameters of one reading of the paper."""

    name: str
    branches: int
    """Shared layers, branches and action classifier."""
    cbi: int
    akg: int
    heads: int
    """Human decoder and scene classifier."""
    paper: float
    """Table 2, in millions."""

    @property
    def inference(self) -> int:
        return self.branches + self.cbi + self.akg

    @property
    def training(self) -> int:
        return self.inference + self.heads


def skeleton(
    config: ModelConfig,
    classes: int,
    scene_classes: int = PLACES365,
    teachers: Mapping[str, nn.Module] | None = None,
) -> KINet:
    """The network of ``config`` for its shapes alone: its weights, and those of ``teachers``, are not set.

    Raises ``InputError`` as ``build_kinet`` does.
    """
    with torch.device("meta"):
        model = build_kinet(replace(config, weights="none"), classes, scene_classes, teachers)
    return model.to_empty(device="cpu")


def parts_table(model: KINet, input_size: int) -> list[PartCost]:
    """Costs of the parts that ``model`` has, for one clip of N_seg frames of ``input_size`` x ``input_size``.

    Multiply-adds of convolutions and matrix products, as ``torch.utils.flop_counter`` finds them in a forward
    pass on shapes alone; normalisations, activations, pooling and resizing are not counted, as is the custom.
    The scene and human branches count at inference too, for they feed CBI and AKG. A training step is about
    three forward passes.

    Args:
        model: a ``skeleton``, or a network with weights, which is not changed.
    """
    parts = _parts(model)
    flops = dict.fromkeys(parts, 0)
    hooks = []
    shapes_alone = FakeTensorMode(allow_non_fake_inputs=True)
    with eval_mode(model), torch.no_grad(), shapes_alone, FlopCounterMode(display=False) as counter:
        for name, module in parts.items():
            for step in _steps(module):

                def before(module: nn.Module, inputs: object, name: str = name) -> None:
                    flops[name] -= counter.get_total_flops()

                def after(module: nn.Module, inputs: object, output: object, name: str = name) -> None:
                    flops[name] += counter.get_total_flops()

                hooks += [step.register_forward_pre_hook(before), step.register_forward_hook(after)]
        try:
            clip = torch.zeros(
                1, model.segments, 3, input_size, input_size, dtype=torch.uint8, device=model.mean.device
            )
            model(clip)
        finally:
            for hook in hooks:
                hook.remove()
    assert sum(flops.values()) == counter.get_total_flops(), "an operation outside of all parts"
    return [
        PartCost(
            name,
            _count(module),
            flops[name] // 2,
            module not in (model.human_decoder, model.scene_classifier),
            sum(parameter.numel() for parameter in module.parameters() if not parameter.requires_grad),
        )
        for name, module in parts.items()
    ]


def _parts(model: KINet) -> dict[str, nn.Module]:
    parts: dict[str, nn.Module | None] = {"shared layers": model.shared}
    parts |= {f"{name} branch": trunk for name, trunk in model.trunks.items()}
    for name, branch in zip(model.fixed, model.fixed_branches(), strict=True):
        parts |= {f"{name} teacher": branch.teacher, f"{name} projections": branch.projections}
    parts |= {
        "CBI": model.cbi if len(model.cbi) else None,
        "AKG": model.graph,
        "action classifier": model.classifier,
        "human decoder": model.human_decoder,
        "scene classifier": model.scene_classifier,
    }
    return {name: module for name, module in parts.items() if module is not None}


def inference_parameters(model: KINet) -> int:
    """Parameters without the human decoder and the scene classifier."""
    dropped = (model.human_decoder, model.scene_classifier)
    return sum(_count(module) for module in _parts(model).values() if module not in dropped)


def _steps(part: nn.Module) -> list[nn.Module]:
    """The modules of a part that are called: a dictionary of blocks is not."""
    return list(part.values()) if isinstance(part, nn.ModuleDict) else [part]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def readings() -> list[Reading]:
    """Parameters of the readings of the paper, beside Table 2's. Nothing is loaded, and no memory taken."""
    return [_reading(name, settings, paper) for name, settings, paper in READINGS]


def _reading(name: str, settings: dict[str, Any], paper: float) -> Reading:
    parts = {part: _count(module) for part, module in _parts(skeleton(ModelConfig(**settings), KINETICS400)).items()}
    cbi, akg = parts.pop("CBI", 0), parts.pop("AKG", 0)
    heads = parts.pop("human decoder", 0) + parts.pop("scene classifier", 0)
    return Reading(name, sum(parts.values()), cbi, akg, heads, paper)


def nearest(rows: Sequence[Reading]) -> str:
    """One line: which KINet comes closest to the paper's count, and how far off it is."""
    totals = [
        (abs(count / 1e6 - row.paper), count / 1e6, row, when)
        for row in rows
        if row.cbi
        for count, when in ((row.inference, "at inference"), (row.training, "in training"))
    ]
    off, count, row, when = min(totals, key=lambda total: total[0])
    verdict = "matches" if off < 0.05 else f"comes closest to, {off:.1f}M off,"
    return f"'{row.name}' {verdict} the paper's {row.paper}M: {count:.1f}M {when}"


def readings_dict(rows: Sequence[Reading]) -> list[dict[str, Any]]:
    """The readings with their totals, for JSON."""
    return [asdict(row) | {"inference": row.inference, "training": row.training} for row in rows]


def info_dict(parts: Sequence[PartCost], segments: int, input_size: int) -> dict[str, Any]:
    """The parts and their totals, for JSON. Operations are of the forward pass."""

    def costs(parameters: int, frozen: int, macs: int) -> dict[str, float]:
        return {
            "parameters": parameters,
            "trainable_parameters": parameters - frozen,
            "frozen_parameters": frozen,
            "gmacs_per_clip": macs / 1e9,
            "gflops_per_clip": 2 * macs / 1e9,
            "gflops_per_image": 2 * macs / 1e9 / segments,
        }

    def total(chosen: Sequence[PartCost]) -> dict[str, float]:
        return costs(
            sum(part.parameters for part in chosen),
            sum(part.frozen for part in chosen),
            sum(part.macs for part in chosen),
        )

    return {
        "segments": segments,
        "input_size": input_size,
        "parts": [
            {"part": part.part, "inference": part.inference} | costs(part.parameters, part.frozen, part.macs)
            for part in parts
        ],
        "training": total(parts),
        "inference": total([part for part in parts if part.inference]),
    }


def parts_rendered(info: dict[str, Any]) -> Table:
    """``info_dict`` as a table for the terminal."""
    size, segments = info["input_size"], info["segments"]
    table = Table(title=f"forward pass, {size} x {size} pixels, clips of {segments} frames")
    table.caption = "1 GFLOP = 0.5 GMACs: a multiply-add is two operations"
    table.add_column("part")
    for column in ("parameters,\nM", "frozen,\nM", "GMACs\na clip", "GFLOPs\na clip", "GFLOPs\nan image"):
        table.add_column(column, justify="right")
    rows = [(part["part"] + ("" if part["inference"] else " (training only)"), part) for part in info["parts"]]
    for name, row in [*rows, ("training", info["training"]), ("inference", info["inference"])]:
        if name == "training":
            table.add_section()
        table.add_row(
            name,
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['frozen_parameters'] / 1e6:.2f}",
            *(f"{row[key]:.3f}" for key in ("gmacs_per_clip", "gflops_per_clip", "gflops_per_image")),
        )
    return table


def readings_rendered(rows: Sequence[Reading]) -> Table:
    """Parameters of the readings in millions, beside the paper's."""
    table = Table(title="parameters in millions, 400 actions, 365 scenes", caption=nearest(rows))
    table.add_column("reading")
    for column in ("branches", "CBI", "AKG", "inference", "training", "paper"):
        table.add_column(column, justify="right")
    for row in rows:
        counts = (row.branches, row.cbi, row.akg, row.inference, row.training)
        table.add_row(row.name, *(f"{count / 1e6:.1f}" for count in counts), f"{row.paper:.1f}")
    return table


def unknown_trunks(config: ModelConfig) -> bool:
    """Whether only the teachers' files can say what the fixed branches are."""
    return config.auxiliary_branches == "fixed" and None in (
        getattr(config.fixed_trunks, task) for task in config.auxiliaries
    )


def training_skeleton(config: Config, classes: int) -> KINet:
    """The network that a training has, for its shapes alone: with its fixed teachers, and frozen where it freezes."""
    model_config, teachers = open_fixed_teachers(config) if unknown_trunks(config.model) else (config.model, None)
    model = skeleton(model_config, classes, teachers=teachers)
    freeze_parameters(model, config.training)
    return model


def print_info(config: Config, classes: int, *, as_json: bool) -> None:
    """``kinet info``: the cost of the config's network and the readings of the paper, as tables or as JSON."""
    model = training_skeleton(config, classes)
    parts = info_dict(parts_table(model, config.data.input_size), config.model.segments, config.data.input_size)
    rows = readings()
    if as_json:
        print(json.dumps(parts | {"readings": readings_dict(rows)}))
        return
    console = Console()
    console.print(parts_rendered(parts))
    console.print(readings_rendered(rows))
