from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kinet.ablation.rows import PAPER_BACKBONES, Row, changed, nearest_resnet, study_rows
from kinet.config import Config, ModelConfig
from kinet.errors import InputError
from kinet.info import skeleton

BACKBONES = ("resnet18", "bn_inception", "mobilenet_v2")


def config_of(backbone: str = "resnet50", **model: Any) -> Config:
    return Config(model=replace(ModelConfig(backbone=backbone, weights="none"), **model))


def rows_of(config: Config, *tables: int, **options: Any) -> dict[str, Row]:
    options = {"backbones": PAPER_BACKBONES, "larger": "resnet101", "weights": {}} | options
    return {row.key: row for row in study_rows(config, tables, **options)}


def test_table_1_has_the_papers_rows_with_its_figures() -> None:
    rows = rows_of(config_of(), 1)
    paper = {row.settings: row.paper for row in rows.values()}
    assert paper == {
        "TSN": 69.5,
        "baseline + human": 70.3,
        "baseline + scene": 70.0,
        "baseline + human + scene": 70.6,
        "1 CBI@res4": 71.1,
        "2 CBI@res4": 71.2,
        "1 CBI@res4 + 1 CBI@res5": 71.8,
        "2 CBI@res4 + 1 CBI@res5": 71.5,
        "AKG, dot": 71.7,
        "AKG, embedded": 71.6,
        "AKG, concatenation": 71.2,
        "as configured": 72.4,
    }
    assert next(iter(rows)) == "tsn"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_row_of_table_1_builds_what_it_says(backbone: str) -> None:
    config = config_of(backbone)
    for row in rows_of(config, 1).values():
        model = skeleton(changed(config, row.changes).model, 3, 5)
        places = [name.rsplit("_", 1)[0] for name in model.cbi]
        counts = {"1 CBI@res4": (1, 0), "2 CBI@res4": (2, 0), "2 CBI@res4 + 1 CBI@res5": (2, 1)}
        expected = counts.get(row.settings, (1, 1) if "CBI" in row.settings or row.key == "kinet" else (0, 0))
        assert (places.count("res4"), places.count("res5")) == expected, row
        assert (model.graph is not None) == (row.key == "kinet" or row.key.startswith("akg")), row
        branches = {"tsn": 1, "multitask_human": 2, "multitask_scene": 2}.get(row.key, 3)
        assert len(model.branches) == branches, row


def test_a_backbone_with_one_block_in_res4_has_no_rows_of_two_cbi_there() -> None:
    rows = rows_of(config_of("resnet10_narrow", cbi=["res4", "res5"]), 1)
    assert [key for key in rows if key.startswith("cbi")] == ["cbi_1", "cbi_1_1"]
    assert rows["cbi_1_1"].changes["model.cbi"] == ["res4_1", "res5_1"]


def test_rows_of_several_tables_are_trained_once() -> None:
    rows = rows_of(config_of(), 1, 2, 3, 4)
    assert rows["tsn"].tables == (1, 2, 3, 4)
    assert rows["kinet"].tables == (1, 2, 3, 4)
    assert rows["kinet_bn_inception"].tables == (3,)


def test_the_baseline_is_there_where_its_backbone_is_not_in_table_3() -> None:
    rows = rows_of(config_of("mobilenet_v2"), 3, backbones=["resnet18"])
    assert list(rows) == ["tsn", "tsn_resnet18", "kinet_resnet18"]


def test_a_row_keeps_what_it_does_not_change() -> None:
    config = replace(config_of(dropout=0.3), out="runs/study")
    kinet = changed(config, rows_of(config, 1)["kinet"].changes)
    assert kinet == config
    longer = changed(config, rows_of(config, 2)["tsn_longer"].changes)
    assert (longer.training.epochs, longer.training.milestones) == (140, [40, 80, 120])
    assert longer.model.dropout == 0.3


def test_the_larger_tsn_is_the_resnet_nearest_to_kinet() -> None:
    assert nearest_resnet(config_of()) == "resnet200"  # 88.4M parameters; TSN-ResNet200 has 62.6M, TSN-ResNet152 58.9M


def test_weights_of_another_backbone_are_not_taken_from_the_configs_file(tmp_path: Path) -> None:
    config = config_of("resnet50")
    config.model.weights = str(tmp_path / "resnet50.pth")
    assert rows_of(config, 2)["tsn_larger"].changes["model.weights"] == "imagenet"
    own = rows_of(config, 2, weights={"resnet101": "big.pth"})["tsn_larger"]
    assert own.changes["model.weights"] == "big.pth"


def test_inception_v3_has_its_own_input_size() -> None:
    changes = rows_of(config_of(), 3)["kinet_inception_v3"].changes
    assert changes["data.input_size"] == 299
    assert changes["data.frame_size"] == [342, 454]


@pytest.mark.parametrize(
    ("config", "tables", "options", "words"),
    [
        (config_of(), (5,), {}, "tables are 1, 2, 3 and 4"),
        (config_of(), (), {}, "tables are 1, 2, 3 and 4"),
        (config_of(), (3,), {"backbones": ["vgg"]}, "'vgg' is unknown"),
        (config_of(auxiliaries=["human"]), (1,), {}, "whole KINet"),
        (config_of(share_until="res4"), (1,), {}, "leaves no block of res4"),
    ],
)
def test_wrong_use_is_one_line(config: Config, tables: tuple[int, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        rows_of(config, *tables, **options)
