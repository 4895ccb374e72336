"""The fitted classifier against the optimum that it claims."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch.nn import functional as F

from kinet.config import ModelConfig
from kinet.evaluation.protocol import ViewBatch
from kinet.models.kinet import build_kinet
from kinet.training.classifier_fit import WEIGHT_DECAY, fit_classifier, logistic_regression

CLASSES = 3


def clusters(clips: int = 60, channels: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(clips) % CLASSES
    centres = torch.randn(CLASSES, channels, generator=generator)
    x = centres[y] + torch.randn(clips, channels, generator=generator)
    scales, offsets = (
        torch.rand(channels, generator=generator) * 10 + 0.1,
        20 * torch.randn(channels, generator=generator),
    )
    return x * scales + offsets, y


def test_it_is_the_minimum_on_standardised_features() -> None:
    x, y = clusters()
    x, y = x.double(), y
    weight, bias = logistic_regression(x.float(), y, CLASSES)
    std = x.std(dim=0, correction=0)
    w = (weight.double() * std).requires_grad_()  # the weights of standardised features
    b = (bias.double() + weight.double() @ x.mean(dim=0)).requires_grad_()
    standardised = (x - x.mean(dim=0)) / std
    (F.cross_entropy(standardised @ w.T + b, y) + WEIGHT_DECAY / 2 * w.square().sum()).backward()
    assert w.grad is not None
    assert b.grad is not None
    assert w.grad.abs().max() < 1e-3
    assert b.grad.abs().max() < 1e-3


def test_units_and_offsets_of_the_features_do_not_matter() -> None:
    x, y = clusters()
    weight, bias = logistic_regression(x, y, CLASSES)
    other_weight, other_bias = logistic_regression(x * 3 - 7, y, CLASSES)
    torch.testing.assert_close(x @ weight.T + bias, (x * 3 - 7) @ other_weight.T + other_bias, rtol=1e-2, atol=1e-2)


def test_a_constant_feature_gets_no_weight() -> None:
    x, y = clusters()
    x[:, 2] = 4.0
    weight, bias = logistic_regression(x, y, CLASSES)
    assert torch.equal(weight[:, 2], torch.zeros(CLASSES))
    assert bias.isfinite().all()


def test_the_network_then_recognises_its_clips() -> None:
    """Clips of one colour a class: untrained features tell them apart, the untrained classifier does not."""
    torch.manual_seed(0)
    model = build_kinet(ModelConfig(backbone="resnet10_narrow", weights="none", cbi=["res4"]), CLASSES, 4)
    colours = torch.tensor([[250, 20, 20], [20, 250, 20], [20, 20, 250]], dtype=torch.uint8)
    labels = torch.arange(12) % CLASSES
    frames = colours[labels][:, None, None, :, None, None].expand(12, 3, 1, 3, 64, 64)
    noise = torch.randint(0, 6, frames.shape, dtype=torch.uint8)
    batch = ViewBatch(frames + noise, labels, [str(i) for i in range(12)], [])
    unreadable = ViewBatch(torch.empty(0), torch.empty(0, dtype=torch.int64), [], [("x", "missing")])
    statistics = model.shared["stem_1"][1].running_mean.clone()  # type: ignore[index,union-attr,operator]
    fit_classifier(Fabric(accelerator="cpu", devices=1), model, [unreadable, batch])
    assert model.training
    assert torch.equal(model.shared["stem_1"][1].running_mean, statistics)  # type: ignore[index,union-attr,arg-type]
    model.eval()
    with torch.no_grad():
        assert (model(batch.frames[:, :, 0]).action.argmax(dim=1) == labels).all()


def test_without_a_readable_clip_the_classifier_stays() -> None:
    model = build_kinet(ModelConfig(backbone="resnet10_narrow", weights="none", cbi=[]), CLASSES, 4)
    before = model.classifier.weight.clone()
    fit_classifier(Fabric(accelerator="cpu", devices=1), model, [])
    assert torch.equal(model.classifier.weight, before)
