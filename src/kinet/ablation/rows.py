"""The rows of the paper's Tables 1 to 4 (section 4.3), as changes of a KINet's config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kinet.config import Config, config_from_dict, put
from kinet.errors import InputError
from kinet.info import inference_parameters, skeleton
from kinet.models.kinet import find_block
from kinet.models.zoo import BACKBONES, build_backbone
from kinet.training.run_folder import to_plain

TABLES = (1, 2, 3, 4)
PAPER_BACKBONES = ("resnet50", "bn_inception", "inception_v3")
"""Of Table 3."""
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200")
INPUT_SIDES = {"inception_v3": 299}
"""Pixels, of the backbones that were not made for 224."""
TSN: dict[str, Any] = {"model.auxiliaries": [], "model.cbi": [], "model.akg": "none"}
MULTITASK: dict[str, Any] = {"model.cbi": [], "model.akg": "none"}
FIXED: dict[str, Any] = {
    "model.auxiliary_branches": "fixed",
    "model.aux_width": 1.0,
    "loss.human": 0.0,  # and no other setting of losses that there are no labels for
    "loss.scene": 0.0,
    "loss.soft_labels": False,
    "loss.temperature": 1.0,
}
BASELINE = "tsn"
KINET = "kinet"

Changes = Mapping[str, Any]
"""Values by dotted keys of the config."""


@dataclass(frozen=True)
class Row:
    """One network of a study."""

    key: str
    """Names its folder; a row that stands in two tables is trained once."""
    method: str
    settings: str
    changes: Changes
    tables: tuple[int, ...]
    paper: float | None = None
    """The paper's top-1 on Kinetics-400 with ResNet-50, in per cent."""


def study_rows(
    config: Config, tables: Sequence[int], *, backbones: Sequence[str], larger: str | None, weights: Mapping[str, str]
) -> list[Row]:
    """The rows of ``tables``, the baseline first, each once.

    Args:
        config: of a KINet; what a row does not change is as it says.
        backbones: of Table 3.
        larger: the backbone of Table 2's larger TSN; None takes the ResNet whose TSN is nearest to KINet in parameters.
        weights: the files of backbones other than the config's, by name; default ``imagenet``.

    Raises:
        InputError: a table that the paper does not have, a config that is not KINet's, or an unknown backbone.
    """
    unknown = [table for table in tables if table not in TABLES]
    if unknown or not tables:
        raise InputError(f"--table {' '.join(map(str, unknown))}: the paper's tables are 1, 2, 3 and 4")
    for name in (*backbones, *weights, *([larger] if larger else [])):
        if name not in BACKBONES:
            raise InputError(f"backbone {name!r} is unknown; there are {', '.join(BACKBONES)}")
    if not {"scene", "human"} <= set(config.model.auxiliaries) or not config.model.cbi or config.model.akg == "none":
        raise InputError(
            "ablate: give the config of a whole KINet: both auxiliaries, cbi and akg; the rows leave parts out"
        )
    made = {
        1: table_1(config),
        2: table_2(config, larger, weights),
        3: table_3(config, backbones, weights),
        4: table_4(),
    }
    rows: dict[str, Row] = {}
    for table in sorted({1, *tables}):
        for row in made[table]:
            if table in tables or row.key == BASELINE:
                known = rows.get(row.key)
                held = (*known.tables, table) if known else (table,)
                rows[row.key] = Row(row.key, row.method, row.settings, row.changes, held, row.paper)
    return list(rows.values())


def table_1(config: Config) -> list[Row]:
    """Each component by itself."""
    third, last = cbi_places(config)
    relations = {"dot": 71.7, "embedded": 71.6, "concatenation": 71.2}
    integrations = {
        "1 CBI@res4": ("cbi_1", third[-1:], 71.1),
        "2 CBI@res4": ("cbi_2", third, 71.2),
        "1 CBI@res4 + 1 CBI@res5": ("cbi_1_1", third[-1:] + last, 71.8),
        "2 CBI@res4 + 1 CBI@res5": ("cbi_2_1", third + last, 71.5),
    }
    return [
        Row(BASELINE, "Baseline", "TSN", TSN, (1,), 69.5),
        *(
            Row(
                f"multitask_{name}",
                "Multitask",
                f"baseline + {name}",
                MULTITASK | {"model.auxiliaries": [name]},
                (1,),
                top1,
            )
            for name, top1 in (("human", 70.3), ("scene", 70.0))
        ),
        Row("multitask", "Multitask", "baseline + human + scene", MULTITASK, (1,), 70.6),
        *(
            Row(key, "CBI + multitask", settings, {"model.cbi": places, "model.akg": "none"}, (1,), top1)
            for settings, (key, places, top1) in integrations.items()
            if "2 CBI" not in settings or len(third) == 2
        ),
        *(
            Row(f"akg_{name}", "AKG + multitask", f"AKG, {name}", {"model.cbi": [], "model.akg": name}, (1,), top1)
            for name, top1 in relations.items()
        ),
        Row(KINET, "KINet", "as configured", {}, (1,), 72.4),
    ]


def table_2(config: Config, larger: str | None, weights: Mapping[str, str]) -> list[Row]:
    """Is it the parameters? Beyond the paper's rows: a longer training, and KINet without labels to learn."""
    larger = larger or nearest_resnet(config)
    training = config.training
    return [
        Row(BASELINE, "TSN", config.model.backbone, TSN, (2,), 69.5),
        Row("tsn_larger", "TSN", larger, TSN | backbone_changes(config, larger, weights), (2,), 70.7),
        Row(
            "tsn_longer",
            "TSN",
            f"{config.model.backbone}, twice the epochs",
            TSN
            | {
                "training.epochs": 2 * training.epochs,
                "training.milestones": [2 * epoch for epoch in training.milestones],
            },
            (2,),
        ),
        Row("kinet_unlabelled", "KINet", "without its auxiliary losses", {"loss.human": 0.0, "loss.scene": 0.0}, (2,)),
        Row(KINET, "KINet", config.model.backbone, {}, (2,), 72.4),
    ]


def table_3(config: Config, backbones: Sequence[str], weights: Mapping[str, str]) -> list[Row]:
    """TSN and KINet on each backbone."""
    rows = []
    for name in backbones:
        own = name == config.model.backbone
        changes = {} if own else backbone_changes(config, name, weights)
        rows += [
            Row(BASELINE if own else f"tsn_{name}", "TSN", name, TSN | changes, (3,)),
            Row(KINET if own else f"kinet_{name}", "KINet", name, changes, (3,)),
        ]
    return rows


def table_4() -> list[Row]:
    """Fixed against learned auxiliary branches."""
    return [
        Row(BASELINE, "Baseline", "TSN", TSN, (4,), 69.5),
        Row("kinet_fixed", "KINet", "fixed auxiliary branches", FIXED, (4,), 70.5),
        Row(KINET, "KINet", "learned auxiliary branches", {}, (4,), 72.4),
    ]


def cbi_places(config: Config) -> tuple[list[str], list[str]]:
    """The middle and the last of the branches' blocks in res4 (or the only one), and the config's CBI in res5."""
    with torch.device("meta"):
        blocks = build_backbone(config.model.backbone, weights="none").blocks()
    first = find_block(config.model.share_until, blocks, "model.share_until") + 1
    third = [block.name for block in blocks[first:] if block.stage == "res4"]
    if not third:
        raise InputError(f"model.share_until: {config.model.share_until} leaves no block of res4 for table 1's CBI")
    placed = [blocks[find_block(name, blocks, "model.cbi")] for name in config.model.cbi]
    last = [block.name for block in placed if block.stage == "res5"] or ["res5_2"]
    middle = third[(len(third) - 1) // 2 : -1][:1]
    return [*middle, third[-1]], last[:1]


def nearest_resnet(config: Config) -> str:
    """The ResNet whose TSN is nearest to the config's KINet in parameters at inference."""
    wanted = inference_parameters(skeleton(config.model, 400))
    sizes = {}
    for name in RESNETS:
        tsn = changed(config, TSN | {"model.backbone": name})
        sizes[name] = inference_parameters(skeleton(tsn.model, 400))
    return min(sizes, key=lambda name: abs(sizes[name] - wanted))


def backbone_changes(config: Config, name: str, weights: Mapping[str, str]) -> dict[str, Any]:
    """Another backbone, its weights and its input size."""
    changes: dict[str, Any] = {"model.backbone": name}
    if name in weights:
        changes["model.weights"] = weights[name]
    elif Path(config.model.weights).suffix:  # a file, of the config's backbone
        changes["model.weights"] = "imagenet"
    if name in INPUT_SIDES and config.data.input_size == 224:
        side = INPUT_SIDES[name]
        changes |= {"data.input_size": side, "data.frame_size": scaled_to(config.data.frame_size, side)}
    return changes


def scaled_to(frame_size: tuple[int, int], side: int) -> list[int]:
    """The frame that relates to ``side`` as ``frame_size`` to 224."""
    return [round(length * side / 224) for length in frame_size]


def changed(config: Config, changes: Changes) -> Config:
    """``config`` with values set by dotted keys. Raises InputError on a value that cannot be."""
    values = to_plain(asdict(config))
    for key, value in changes.items():
        put(values, key, value, Config)
    return config_from_dict(values, "ablate")
