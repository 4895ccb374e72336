"""TSN's rules for parameters, learning rate and frozen layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from kinet.config import ModelConfig, TrainingConfig
from kinet.errors import InputError
from kinet.models.kinet import KINet, build_kinet
from kinet.training.optim import build_optimizer, freeze_parameters, set_learning_rate, set_training_mode

CONFIG = TrainingConfig(lr=0.01, weight_decay=1e-5)


def network() -> KINet:
    return build_kinet(ModelConfig(backbone="resnet10_narrow", weights="none", cbi=["res4"]), 5, 7)


def rule_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> tuple[float, float]:
    for group in optimizer.param_groups:
        if any(parameter is other for other in group["params"]):
            return group["lr"], group["weight_decay"]
    raise AssertionError("not in the optimiser")


def test_rules_per_kind_of_parameter() -> None:
    model = network()
    optimizer = build_optimizer(model, CONFIG)
    set_learning_rate(optimizer, CONFIG, epoch=0, step=100)
    assert rule_of(optimizer, model.shared["stem_1"][0].weight) == (0.01, 1e-5)  # type: ignore[index,union-attr,arg-type]
    assert rule_of(optimizer, model.shared["stem_1"][1].weight) == (0.01, 0)  # type: ignore[index,union-attr,arg-type]
    assert rule_of(optimizer, model.shared["stem_1"][1].bias) == (0.01, 0)  # type: ignore[index,union-attr,arg-type]
    assert rule_of(optimizer, model.classifier.weight) == (0.01, 1e-5)
    assert rule_of(optimizer, model.classifier.bias) == (0.02, 0)
    counted = sum(len(group["params"]) for group in optimizer.param_groups)
    assert counted == len(list(model.parameters()))


def test_layers_without_pretrained_weights_can_go_faster() -> None:
    model, config = network(), replace(CONFIG, new_layers_lr=5.0)
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, config, epoch=0, step=100)
    assert model.graph is not None
    assert model.scene_classifier is not None
    assert rule_of(optimizer, model.shared["stem_1"][0].weight) == (0.01, 1e-5)  # type: ignore[index,union-attr,arg-type]
    assert rule_of(optimizer, model.cbi["res4_1"].reduce.weight) == (0.05, 1e-5)  # type: ignore[union-attr,arg-type]
    assert rule_of(optimizer, model.graph.weight.weight) == (0.05, 1e-5)
    assert rule_of(optimizer, model.classifier.bias) == (0.1, 0)
    assert rule_of(optimizer, model.scene_classifier.weight) == (0.05, 1e-5)


def test_learning_rate_drops_at_the_milestones_and_rises_in_the_warm_up() -> None:
    config = replace(CONFIG, milestones=[20, 40, 60], warmup_steps=4)
    optimizer = build_optimizer(network(), config)
    rates = {epoch: set_learning_rate(optimizer, config, epoch, step=1000) for epoch in (0, 19, 20, 39, 40, 59, 60, 69)}
    assert [rates[e] for e in (0, 19, 20, 39, 40, 59, 60, 69)] == pytest.approx(
        [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5]
    )
    assert [set_learning_rate(optimizer, config, 0, step) for step in range(5)] == pytest.approx(
        [0.0025, 0.005, 0.0075, 0.01, 0.01]
    )


def batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def test_partial_bn_freezes_all_but_the_first_of_the_backbone() -> None:
    model, config = network(), replace(CONFIG, partial_bn=True)
    freeze_parameters(model, config)
    set_training_mode(model, config)
    first, *others = batch_norms(model.shared) + batch_norms(model.trunks)
    assert first.training
    assert first.weight.requires_grad
    assert all(not norm.training and not norm.weight.requires_grad for norm in others)
    new = batch_norms(model.cbi) + batch_norms(model.human_decoder or nn.Identity())
    assert len(new) == 3
    assert all(norm.training and norm.weight.requires_grad for norm in new)
    optimizer = build_optimizer(model, config)
    assert not any(p is others[0].weight for group in optimizer.param_groups for p in group["params"])


def test_frozen_layers_stay_as_they_were_loaded() -> None:
    model, config = network(), replace(CONFIG, freeze_until="res2", lr=1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze_parameters(model, config)
    optimizer = build_optimizer(model, config)
    for _ in range(2):
        set_training_mode(model, config)
        output = model(torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8))
        output.action.square().sum().backward()
        optimizer.step()
    after = model.state_dict()
    changed = {
        name.split(".")[1] for name in before if name.startswith("shared") and not before[name].equal(after[name])
    }
    assert changed == {"res3_1"}


def test_freezing_needs_a_shared_stage() -> None:
    with pytest.raises(InputError, match=r"training\.freeze_until.*nearest"):
        freeze_parameters(network(), replace(CONFIG, freeze_until="res5"))
