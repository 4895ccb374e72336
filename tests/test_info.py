from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from kinet.config import ModelConfig, TrainingConfig, TrunkConfig, TrunksConfig
from kinet.info import (
    READINGS,
    Reading,
    info_dict,
    nearest,
    parts_rendered,
    parts_table,
    readings,
    readings_dict,
    readings_rendered,
    skeleton,
)
from kinet.models.kinet import KINet, build_kinet
from kinet.models.zoo import BACKBONES
from kinet.training.optim import freeze_parameters

SMALL = {"backbone": "mobilenet_v2", "weights": "none"}
TSN = {"auxiliaries": [], "cbi": [], "akg": "none"}
CONFIGS = [
    ModelConfig(**SMALL),
    ModelConfig(**SMALL, akg="concatenation", aux_width=0.5, segments=2),
    ModelConfig(**SMALL, auxiliaries=["human"], cbi=[], akg="embedded"),
    ModelConfig(**SMALL, auxiliaries=["scene"], cbi=["res5_1"], akg="none"),
    ModelConfig(**SMALL | TSN),
    ModelConfig(
        **SMALL,
        auxiliary_branches="fixed",
        fixed_trunks=TrunksConfig(TrunkConfig("resnet18", 8), TrunkConfig("resnet10_narrow")),
    ),
]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("config", CONFIGS)
def test_parts_add_up_to_the_network_in_training_and_at_inference(config: ModelConfig) -> None:
    model = skeleton(config, 7, 11)
    info = info_dict(parts_table(model, 64), config.segments, 64)
    assert info["training"]["parameters"] == parameters(model)
    assert info["inference"]["parameters"] == parameters(model.drop_auxiliary_heads())
    without_heads = info_dict(parts_table(model, 64), config.segments, 64)
    assert without_heads["training"] == without_heads["inference"] == info["inference"]


def test_frozen_and_trainable_parameters_are_counted_apart() -> None:
    fixed = skeleton(CONFIGS[-1], 7)
    parts = {part["part"]: part for part in info_dict(parts_table(fixed, 64), 3, 64)["parts"]}
    trunk = BACKBONES["resnet18"]()
    teacher = parts["human teacher"]
    assert teacher["frozen_parameters"] == teacher["parameters"] == parameters(trunk) - 513 * 1000
    assert teacher["gmacs_per_clip"] > 2 * parts["scene teacher"]["gmacs_per_clip"]
    # the default CBIs stand behind res4 (96 channels) and res5_2 (160), d is 1280; the teacher's are 256, 512 and 512
    assert parts["human projections"]["trainable_parameters"] == 257 * 96 + 513 * 160 + 513 * 1280
    assert sum(part["frozen_parameters"] > 0 for part in parts.values()) == 2

    freeze_parameters(fixed, TrainingConfig(freeze_until="res3"))
    total = info_dict(parts_table(fixed, 64), 3, 64)["training"]
    assert total["frozen_parameters"] == sum(p.numel() for p in fixed.parameters() if not p.requires_grad)
    assert total["frozen_parameters"] + total["trainable_parameters"] == total["parameters"]


@pytest.fixture(scope="module")
def model() -> KINet:
    torch.manual_seed(0)
    return build_kinet(CONFIGS[0], 7, 11)


def real_macs(model: KINet) -> dict[str, int]:
    """Multiply-adds of convolutions and linear layers in a real forward pass, by the first of their names."""
    macs: dict[str, int] = {}
    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            part = ".".join(name.split(".")[: 2 if name.startswith("trunks") else 1])

            def hook(layer: nn.Module, inputs: object, output: Tensor, part: str = part) -> None:
                assert isinstance(layer.weight, Tensor)
                macs[part] = macs.get(part, 0) + output.numel() * layer.weight[0].numel()

            hooks.append(layer.register_forward_hook(hook))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 3, 64, 64, dtype=torch.uint8))
    for handle in hooks:
        handle.remove()
    return macs


def test_operations_are_those_of_the_layers_formulas(model: KINet) -> None:
    real = real_macs(model)
    counted = {part.part: part.macs for part in parts_table(model, 64)}
    channels, frames, branches = 1280, 3, 3
    pairs = 2 * frames * (branches * frames) * channels  # f(x_a, x_b) of the action rows, then G X
    # the decoder's bilinear sampling: 2x2 cells to 4x4 in 64 channels, 4x4 to 8x8 in 2, rows first
    sampling = frames * (64 * (4 * 2 * 2 + 4 * 2 * 4) + 2 * (8 * 4 * 4 + 8 * 4 * 8))
    assert counted == {
        "shared layers": real["shared"],
        "action branch": real["trunks.action"],
        "scene branch": real["trunks.scene"],
        "human branch": real["trunks.human"],
        "CBI": real["cbi"],
        "AKG": real["graph"] + pairs,
        "action classifier": real["classifier"],
        "human decoder": real["human_decoder"] + sampling,
        "scene classifier": real["scene_classifier"],
    }


def test_a_network_with_weights_is_left_as_it_was(model: KINet) -> None:
    model.train()
    frozen = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parts_table(model, 64)
    assert model.training
    assert not frozen.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_resnet50_costs_what_its_publishers_say() -> None:
    """torchvision gives 4.09 GMACs for an image; 1000 classes there, 400 here, are 0.001 apart."""
    config = ModelConfig(backbone="resnet50", **TSN)
    info = info_dict(parts_table(skeleton(config, 400), 224), config.segments, 224)
    assert info["training"]["parameters"] == 25_557_032 - 600 * 2049
    assert info["training"]["gflops_per_image"] / 2 == pytest.approx(4.09, abs=0.005)
    assert info["training"]["gmacs_per_clip"] == pytest.approx(3 * 4.09, abs=0.015)


def test_readings_are_the_counts_of_their_networks() -> None:
    rows = readings()
    assert [row.name for row in rows] == [name for name, _, _ in READINGS]
    tsn, default = rows[0], next(row for row in rows if "default" in row.name)
    assert tsn.training / 1e6 == pytest.approx(tsn.paper, abs=0.1)
    network = skeleton(ModelConfig(backbone="resnet50"), 400)
    assert default.training == parameters(network)
    assert default.inference == parameters(network.drop_auxiliary_heads())
    assert default.training > 3 * 22e6, "three copies of res4 and res5 alone are more than the paper's 56.9M"


def test_nearest_names_the_closest_total_and_never_claims_a_match_that_is_none() -> None:
    tsn = Reading("TSN", 56_900_000, 0, 0, 0, 24.4)
    far = Reading("wide", 80_000_000, 1_000_000, 0, 0, 56.9)
    near = Reading("narrow", 50_000_000, 4_000_000, 1_000_000, 1_000_000, 56.9)
    exact = Reading("exact", 50_000_000, 5_900_000, 1_000_000, 1_000_000, 56.9)
    assert nearest([tsn, far, near]) == "'narrow' comes closest to, 0.9M off, the paper's 56.9M: 56.0M in training"
    assert nearest([tsn, far, near, exact]) == "'exact' matches the paper's 56.9M: 56.9M at inference"


def test_json_and_tables_hold_the_same(model: KINet) -> None:
    parts = parts_table(model, 64)
    info = info_dict(parts, 3, 64)
    assert json.loads(json.dumps(info)) == info
    rows = readings_dict([Reading("a name", 1_000_000, 2_000_000, 3_000_000, 4_000_000, 56.9)])
    assert json.loads(json.dumps(rows))[0]["training"] == 10_000_000
    for cost in [*info["parts"], info["training"], info["inference"]]:
        assert cost["gflops_per_clip"] == pytest.approx(2 * cost["gmacs_per_clip"])
        assert cost["gflops_per_image"] == pytest.approx(cost["gflops_per_clip"] / 3)

    out = io.StringIO()
    console = Console(file=out, width=140)
    console.print(parts_rendered(info))
    console.print(readings_rendered([Reading("a reading", 1_000_000, 2_000_000, 3_000_000, 4_000_000, 56.9)]))
    lines = out.getvalue().splitlines()
    for part in parts:
        assert any(part.part in line and f"{part.parameters / 1e6:.2f}" in line for line in lines)
    assert sum("(training only)" in line for line in lines) == 2
    assert any("a reading" in line and " 6.0 " in line and " 10.0 " in line for line in lines)
