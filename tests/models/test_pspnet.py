"""PSPNet: dilation that keeps the features, the pyramid, the loss, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kinet.errors import InputError
from kinet.models.backbone import Backbone
from kinet.models.dilation import dilate
from kinet.models.pspnet import PSPNet, PSPOutput, PyramidPooling, parsing_loss
from kinet.models.zoo import BACKBONES, build_backbone

DILATABLE = ["resnet10_narrow", "resnet18", "resnet50", "mobilenet_v2", "densenet121"]
IGNORE = 255


def features(backbone: Backbone, images: Tensor) -> Tensor:
    for block in backbone.blocks():
        images = block.module(images)
    return images


def awake(network: nn.Module) -> None:
    """Statistics and weights that differ from their neutral start, so that a wrong order of layers shows."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)


@pytest.mark.parametrize("name", DILATABLE)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_adds_pixels_and_changes_none(name: str, output_stride: int) -> None:
    """Every k-th pixel of the dilated feature map is a pixel of the published network's."""
    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    awake(backbone)
    names = list(backbone.state_dict())
    images = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        before = features(backbone, images)
        blocks = dilate(backbone, output_stride)
        after = features(backbone, images)
    assert after.shape[2:] == (64 // output_stride, 128 // output_stride)
    assert max(block.stride for block in blocks) == output_stride
    assert list(backbone.state_dict()) == names
    step = 32 // output_stride
    torch.testing.assert_close(after[:, :, ::step, ::step], before, rtol=1e-4, atol=1e-4 * before.abs().max().item())
    assert before.std() > 1e-3


def test_native_stride_leaves_a_backbone_as_it_is() -> None:
    backbone = build_backbone("resnet18")
    before = str(backbone)
    dilate(backbone, 32)
    assert str(backbone) == before


def test_what_cannot_be_dilated_is_refused() -> None:
    for name in ("bn_inception", "inception_v3"):
        with pytest.raises(InputError, match="cannot be dilated; take a ResNet"):
            dilate(build_backbone(name), 8)
    with pytest.raises(InputError, match="7 is none of 4, 8, 16, 32"):
        dilate(build_backbone("resnet18"), 7)


def test_pyramid_is_features_beside_regional_means() -> None:
    """With identity convolutions a level's output is its regions' means, here constant regions."""
    pyramid = PyramidPooling(4).eval()
    for level in pyramid.levels:
        level[1].weight.data.zero_()
        level[1].weight.data[0, 2] = 1.0
    x = torch.rand(2, 4, 12, 18)
    with torch.no_grad():
        out = pyramid(x)
    assert out.shape == (2, 8, 12, 18)
    assert torch.equal(out[:, :4], x)
    scale = 1 / (1 + 1e-5) ** 0.5  # batch normalisation's epsilon
    torch.testing.assert_close(out[:, 4], x[:, 2].mean((1, 2), keepdim=True).expand(2, 12, 18) * scale)
    for index, bins in enumerate((1, 2, 3, 6)):
        means = functional.adaptive_avg_pool2d(x[:, 2:3], bins) * scale
        expected = functional.interpolate(means, size=(12, 18), mode="bilinear")[:, 0]
        torch.testing.assert_close(out[:, 4 + index], expected)


@pytest.mark.parametrize(("name", "stride"), [("resnet10_narrow", 4), ("mobilenet_v2", 16), ("densenet121", 8)])
def test_logits_lie_at_the_output_stride(name: str, stride: int) -> None:
    network = PSPNet(build_backbone(name), 5, stride, 32)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    training = network(images)
    assert training.parts.shape == (2, 5, 64 // stride, 96 // stride)
    assert training.auxiliary is not None
    assert training.auxiliary.shape == training.parts.shape
    testing = network.eval()(images)
    assert testing.auxiliary is None
    new = {id(p) for module in network.new_layers() for p in module.parameters()}
    in_backbone = {id(p) for p in network.backbone.parameters()}
    assert {id(p) for p in network.parameters()} == new | in_backbone
    assert not new & in_backbone


def test_densenet_parser_of_the_paper_counts() -> None:
    """DenseNet-121 without its classifier, pyramid, head and auxiliary head, counted by hand."""
    with torch.device("meta"):
        network = PSPNet(BACKBONES["densenet121"](), 2)
    backbone = 7_978_856 - (1024 * 1000 + 1000)
    pyramid = 4 * (1024 * 256 + 2 * 256)
    head = 2048 * 512 * 9 + 2 * 512 + 512 * 2 + 2
    auxiliary = 1024 * 256 * 9 + 2 * 256 + 256 * 2 + 2
    assert sum(p.numel() for p in network.parameters()) == backbone + pyramid + head + auxiliary


def test_loss_counts_no_ignored_pixel() -> None:
    logits = torch.randn(2, 3, 4, 4)
    auxiliary = torch.randn(2, 3, 4, 4)
    masks = torch.randint(0, 3, (2, 4, 4), dtype=torch.uint8)
    masks[0, :2] = IGNORE
    counted = masks != IGNORE
    picked = logits.permute(0, 2, 3, 1)[counted], auxiliary.permute(0, 2, 3, 1)[counted]
    expected = sum(
        weight * functional.cross_entropy(part, masks[counted].long())
        for weight, part in zip((1, 0.4), picked, strict=True)
    )
    torch.testing.assert_close(parsing_loss(PSPOutput(logits, auxiliary), masks, 0.4, IGNORE), expected)
    nothing = torch.full_like(masks, IGNORE)
    assert parsing_loss(PSPOutput(logits, None), nothing, 0.4, IGNORE) == 0


def test_it_learns_a_square() -> None:
    torch.manual_seed(0)
    network = PSPNet(build_backbone("resnet10_narrow"), 2, 8, 32)
    images = torch.randint(0, 120, (4, 3, 64, 64), dtype=torch.uint8)
    masks = torch.zeros(4, 64, 64, dtype=torch.uint8)
    for index in range(4):
        masks[index, 8 * index : 8 * index + 32, 16:48] = 1
    images += 130 * masks[:, None]
    optimizer = torch.optim.AdamW(network.parameters(), 0.003)
    losses = []
    for _ in range(12):
        loss = parsing_loss(network(images), masks, 0.4, IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
