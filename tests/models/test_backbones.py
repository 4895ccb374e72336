"""The backbones are the published networks, and they come apart into blocks that fit together."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from kinet.models.backbone import STAGES, Backbone
from kinet.models.bn_inception import HalvingMaxPool
from kinet.models.inner_width import inner_channels
from kinet.models.zoo import BACKBONES

ONE_OF_EACH = ["resnet18", "resnet50", "bn_inception", "densenet121", "inception_v3", "mobilenet_v2"]


@cache
def on_meta(name: str, **arguments: float) -> Backbone:
    """Shapes only."""
    with torch.device("meta"):
        return BACKBONES[name](**arguments)


# torchvision's documentation; for resnet200, timm's; for bn_inception, the layers of Cadene's file, see below
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet200": 64_673_832,
    "bn_inception": 11_295_240,
    "densenet121": 7_978_856,
    "inception_v3": 23_834_568,  # torchvision's 27,161,264 less the auxiliary classifier's 3,326,696
    "mobilenet_v2": 3_504_872,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_published(name: str) -> None:
    assert sum(p.numel() for p in on_meta(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_knows_its_name(name: str) -> None:
    assert on_meta(name).name == name


def test_bn_inception_parameters_add_up() -> None:
    """The number in PARAMETERS, from the table of the BN-Inception paper's modules as TSN's Caffe model has them."""

    def layer(channels_in: int, channels_out: int, kernel: int) -> int:  # weights, bias, BN's scale and shift
        return channels_in * channels_out * kernel**2 + 3 * channels_out

    total, channels = layer(3, 64, 7) + layer(64, 64, 1) + layer(64, 192, 3), 192
    for one, reduce, three, double_reduce, double, pool in (
        (64, 64, 64, 64, 96, 32),
        (64, 64, 96, 64, 96, 64),
        (0, 128, 160, 64, 96, 0),
        (224, 64, 96, 96, 128, 128),
        (192, 96, 128, 96, 128, 128),
        (160, 128, 160, 128, 160, 128),
        (96, 128, 192, 160, 192, 128),
        (0, 128, 192, 192, 256, 0),
        (352, 192, 320, 160, 224, 128),
        (352, 192, 320, 192, 224, 128),
    ):
        total += layer(channels, one, 1) + layer(channels, reduce, 1) + layer(reduce, three, 3)
        total += layer(channels, double_reduce, 1) + layer(double_reduce, double, 3) + layer(double, double, 3)
        total += layer(channels, pool, 1)
        channels = one + three + double + (pool or channels)
    assert total + channels * 1000 + 1000 == PARAMETERS["bn_inception"]


PUBLISHED_TENSORS = {
    "resnet18": {"layer1.0.conv1.weight": (64, 64, 3, 3), "layer2.0.downsample.1.running_mean": (128,)},
    "resnet50": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.2.bn3.num_batches_tracked": (),
        "fc.weight": (1000, 2048),
    },
    "resnet152": {"layer2.7.conv1.weight": (128, 512, 1, 1), "layer3.35.bn3.weight": (1024,)},
    "resnet200": {"layer2.23.conv3.weight": (512, 128, 1, 1), "layer3.35.bn3.weight": (1024,)},
    "bn_inception": {
        "conv1_7x7_s2.bias": (64,),
        "conv2_3x3_reduce_bn.running_var": (64,),
        "inception_3c_double_3x3_2.weight": (96, 96, 3, 3),
        "inception_4d_pool_proj.weight": (128, 608, 1, 1),
        "inception_5b_double_3x3_reduce_bn.weight": (192,),
        "last_linear.weight": (1000, 1024),
    },
    "densenet121": {
        "features.conv0.weight": (64, 3, 7, 7),
        "features.denseblock1.denselayer1.norm1.weight": (64,),
        "features.denseblock3.denselayer24.conv1.weight": (128, 992, 1, 1),
        "features.denseblock4.denselayer16.conv2.weight": (32, 128, 3, 3),
        "features.transition3.conv.weight": (512, 1024, 1, 1),
        "features.norm5.running_var": (1024,),
        "classifier.weight": (1000, 1024),
    },
    "inception_v3": {
        "Conv2d_4a_3x3.conv.weight": (192, 80, 3, 3),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6b.branch7x7dbl_5.bn.running_var": (192,),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.bias": (1000,),
    },
    "mobilenet_v2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.17.conv.0.0.weight": (960, 160, 1, 1),
        "classifier.1.weight": (1000, 1280),
    },
}
# tensors in the published files (Inception V3 without AuxLogits), batch counters included
PUBLISHED_KEYS = {
    "resnet18": 122,
    "resnet50": 320,
    "resnet152": 932,
    "densenet121": 727,
    "inception_v3": 566,
    "mobilenet_v2": 314,
}


@pytest.mark.parametrize("name", PUBLISHED_TENSORS)
def test_tensors_have_their_published_names_and_shapes(name: str) -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in on_meta(name).state_dict().items()}
    assert {key: shapes.get(key) for key in PUBLISHED_TENSORS[name]} == PUBLISHED_TENSORS[name]
    if name in PUBLISHED_KEYS:
        assert len(shapes) == PUBLISHED_KEYS[name]


def noise(*shape: int) -> Tensor:
    """Numbers in [0, 1) that look random and are the same everywhere, float64."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((torch.sin(index * 12.9898) * 43758.5453) % 1).reshape(shape)


def fill(network: nn.Module) -> None:
    for key, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.copy_((noise(*tensor.shape) - 0.5) * math.sqrt(24 / tensor[0].numel()))
        elif key.endswith(("running_var", "weight")):
            tensor.copy_(0.5 + noise(*tensor.shape))
        elif tensor.ndim == 1:
            tensor.copy_(noise(*tensor.shape) - 0.5)


# Scores 0, 250, 500, 999 that torchvision 0.28 gives, and for bn_inception Cadene's pretrainedmodels 0.7.4 with
# adaptive pooling, with the weights of `fill` and the image below; and the scores' standard deviation.
REFERENCE_SCORES = {
    "resnet18": ([267.6447, 148.9395, 28.9714, -113.6535], 70.87),
    "resnet50": ([67208.375, -2767.1628, 10488.6104, -15730.168], 14147.0),
    "bn_inception": ([5.6961, 2.7436, 0.4320, -1.0384], 2.535),
    "densenet121": ([8.1733, -0.0220, 1.2911, -2.8643], 2.268),
    "inception_v3": ([-0.4750, 0.0762, 0.0371, -0.6139], 0.4098),
    "mobilenet_v2": ([11.5030, -2.1502, 1.5166, -1.1735], 3.176),
}


@pytest.mark.parametrize("name", REFERENCE_SCORES)
def test_scores_are_those_of_the_published_implementation(name: str) -> None:
    network = BACKBONES[name]().eval()
    fill(network)
    with torch.no_grad():
        scores = network((noise(1, 3, 96, 128) * 4 - 2).float())[0]
    expected, spread = REFERENCE_SCORES[name]
    torch.testing.assert_close(scores[[0, 250, 500, 999]], torch.tensor(expected), rtol=0, atol=1e-3 * spread)


@pytest.mark.parametrize("name", BACKBONES)
def test_blocks_are_the_network_without_its_classifier(name: str) -> None:
    network = on_meta(name)
    names_before = list(network.state_dict())
    blocks = network.blocks()
    assert list(dict.fromkeys(block.stage for block in blocks)) == list(STAGES)
    for stage in STAGES:
        numbers = [int(block.name.rsplit("_", 1)[1]) for block in blocks if block.stage == stage]
        assert numbers == list(range(1, len(numbers) + 1))
    in_blocks = [id(p) for block in blocks for p in block.module.parameters()]
    assert len(in_blocks) == len(set(in_blocks))
    outside = [key for key, p in network.named_parameters() if id(p) not in set(in_blocks)]
    assert len(outside) == 2  # weight and bias of the classifier
    assert all(network.get_parameter(key).shape[0] == 1000 for key in outside)
    assert list(network.state_dict()) == names_before  # taking it apart registers nothing
    assert blocks[-1].channels == network.feature_channels


def test_stages_have_the_units_of_the_papers_tables() -> None:
    def counts(name: str) -> list[int]:
        stages = [block.stage for block in on_meta(name).blocks()]
        return [stages.count(stage) for stage in STAGES]

    assert counts("resnet50") == [1, 3, 4, 6, 3]
    assert counts("resnet200") == [1, 3, 24, 36, 3]
    assert counts("bn_inception") == [1, 1, 2, 5, 3]
    assert counts("densenet121") == [1, 6, 12, 24, 16]
    assert counts("inception_v3") == [1, 1, 3, 5, 3]
    assert counts("mobilenet_v2") == [1, 3, 3, 7, 5]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_blocks_keep_what_they_say_and_leave_their_input_alone(name: str) -> None:
    """Channels and stride are true, and three branches can read the same map although ReLU works in place."""
    network = BACKBONES[name]().eval()
    height, width = 192, 160
    x = torch.randn(1, 3, height, width)
    with torch.no_grad():
        for block in network.blocks():
            before = x.clone()
            y = block.module(x)
            assert torch.equal(x, before), block.name
            x = y
            assert x.shape[1] == block.channels, block.name
            expected = (height // block.stride, width // block.stride)
            if name == "inception_v3":  # nominal: convolutions without padding cost up to 4 pixels
                assert all(0 <= e - s <= 4 for e, s in zip(expected, x.shape[2:], strict=True)), block.name
            else:
                assert tuple(x.shape[2:]) == expected, block.name


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_odd_sizes(name: str) -> None:
    network = BACKBONES[name]().eval()
    smallest = 64 if "inception" in name else 32
    with torch.no_grad():
        for height, width in ((smallest, smallest), (smallest + 1, 97), (111, smallest + 15), (75, 139)):
            scores = network(torch.randn(1, 3, height, width))
            assert scores.shape == (1, 1000)
            assert torch.isfinite(scores).all(), (height, width)


def test_halving_pool_is_the_published_one_where_that_fits_the_convolutions() -> None:
    strided = nn.Conv2d(2, 2, 3, 2, 1)
    for height, width in ((8, 14), (7, 14), (5, 9), (2, 3)):
        x = torch.randn(1, 2, height, width)
        pooled = HalvingMaxPool()(x)
        assert pooled.shape == strided(x).shape
        if height % 2 == 0 and width % 2 == 0:
            assert torch.equal(pooled, nn.MaxPool2d(3, 2, ceil_mode=True)(x))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_parameter_learns(name: str) -> None:
    network = BACKBONES[name]().train()
    network(torch.randn(2, 3, 80, 80)).square().mean().backward()
    without = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_inner_width_narrows_blocks_inside_only(name: str) -> None:
    full, narrow = on_meta(name), on_meta(name, inner_width=0.5)
    for wide_block, narrow_block in zip(full.blocks(), narrow.blocks(), strict=True):
        assert (wide_block.name, wide_block.channels) == (narrow_block.name, narrow_block.channels)
        if wide_block.stage in ("res3", "res4", "res5") and wide_block.channels != 1280:  # MobileNet's last 1x1
            sizes = [sum(p.numel() for p in block.module.parameters()) for block in (wide_block, narrow_block)]
            assert sizes[1] < 0.95 * sizes[0], wide_block.name
    with torch.no_grad():  # any mixture of wide and narrow blocks is a network
        x = torch.empty(1, 3, 128, 128, device="meta")
        for number, pair in enumerate(zip(full.blocks(), narrow.blocks(), strict=True)):
            x = pair[number % 2].module(x)
        assert narrow.head(x).shape == (1, 1000)


def test_inner_width_halves_the_bottlenecks_middle() -> None:
    assert on_meta("resnet50", inner_width=0.5).get_submodule("layer4.1.conv2").weight.shape == (256, 256, 3, 3)
    assert [inner_channels(64, width) for width in (1.0, 0.5, 0.25, 0.01)] == [64, 32, 16, 8]
