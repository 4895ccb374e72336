"""BN-Inception (Ioffe and Szegedy, ICML 2015), as TSN uses it.

Names and numbers are those of ``bninception`` in Cadene/pretrained-models.pytorch
(pretrainedmodels/models/bninception.py), which has them from TSN's Caffe model.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from kinet.models.backbone import Backbone, Block, number_blocks
from kinet.models.inner_width import inner_channels


@dataclass(frozen=True)
class Inception:
    """Channels of one Inception module. ``one`` and ``projection`` are 0 where it halves the resolution."""

    one: int
    """The 1x1 branch."""
    three: tuple[int, int]
    """The 3x3 branch: its 1x1 reduction, its output."""
    double: tuple[int, int]
    """The branch of two 3x3 convolutions: its 1x1 reduction, the output of both."""
    pool: Literal["average", "max"]
    projection: int
    """The 1x1 convolution behind the pooling."""

    @property
    def stride(self) -> int:
        return 1 if self.projection else 2


INCEPTIONS = {
    "3a": Inception(64, (64, 64), (64, 96), "average", 32),
    "3b": Inception(64, (64, 96), (64, 96), "average", 64),
    "3c": Inception(0, (128, 160), (64, 96), "max", 0),
    "4a": Inception(224, (64, 96), (96, 128), "average", 128),
    "4b": Inception(192, (96, 128), (96, 128), "average", 128),
    "4c": Inception(160, (128, 160), (128, 160), "average", 128),
    "4d": Inception(96, (128, 192), (160, 192), "average", 128),
    "4e": Inception(0, (128, 192), (192, 256), "max", 0),
    "5a": Inception(352, (192, 320), (160, 224), "average", 128),
    "5b": Inception(352, (192, 320), (192, 224), "max", 128),
}
STAGE_INCEPTIONS = {"res3": ("3a", "3b"), "res4": ("3c", "4a", "4b", "4c", "4d"), "res5": ("4e", "5a", "5b")}
STRIDES = {"stem": 4, "res2": 8, "res3": 8, "res4": 16, "res5": 32}


class HalvingMaxPool(nn.Module):
    """3x3 max pooling, (B, C, H, W) to (B, C, ceil(H/2), ceil(W/2)): the size that the strided branches give.

    Where H and W are even it is the published pooling, ``MaxPool2d(3, 2, ceil_mode=True)``. That one gives
    floor(H/2) where H is odd, and the branches cannot be joined; a border of one pixel mends it.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return functional.max_pool2d(x, 3, 2, padding=(height % 2, width % 2), ceil_mode=True)


def sequence(layers: dict[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


class Join(nn.Module):
    """The branches' outputs of the same input, one behind the other on the channel axis."""

    def __init__(self, branches: dict[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches.values()], 1)


class BNInception(Backbone):
    """11,295,240 parameters with 1000 classes. ``feature_channels`` is 1024.

    Stages: stem = conv1, pool1; res2 = conv2, pool2 (stride 8); res3 = 3a, 3b; res4 = 3c, 4a ... 4d;
    res5 = 4e, 5a, 5b. ``inner_width`` scales what lies inside the Inception modules: the 1x1 reductions and
    the first of two 3x3 convolutions.

    The published network takes BGR in 0..255 less (104, 117, 128). This one takes the same numbers as RGB:
    ``mean`` and ``std`` make them of RGB in [0, 1], and the zoo reverses the published conv1's input channels.
    Inputs need 64 pixels or more on each side.
    """

    mean = (128 / 255, 117 / 255, 104 / 255)
    std = (1 / 255, 1 / 255, 1 / 255)
    name = "bn_inception"
    feature_channels = 1024

    def __init__(self, classes: int = 1000, inner_width: float = 1.0) -> None:
        super().__init__()
        self._add("conv1_7x7_s2", 3, 64, 7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        self._channels: dict[str, int] = {}
        channels = 192
        for name, inception in INCEPTIONS.items():
            channels = self._add_inception(f"inception_{name}", channels, inception, inner_width)
            self._channels[name] = channels
        self.last_linear = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                assert module.bias is not None
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def _add(self, name: str, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(channels_out))

    def _add_inception(self, name: str, channels_in: int, inception: Inception, inner_width: float) -> int:
        """Create the layers of one Inception module and return the channels of its output."""
        (three_reduce, three), (double_reduce, double) = inception.three, inception.double
        three_reduce, double_reduce, double_first = (
            inner_channels(channels, inner_width) for channels in (three_reduce, double_reduce, double)
        )
        if inception.one:
            self._add(f"{name}_1x1", channels_in, inception.one, 1)
        self._add(f"{name}_3x3_reduce", channels_in, three_reduce, 1)
        self._add(f"{name}_3x3", three_reduce, three, 3, inception.stride)
        self._add(f"{name}_double_3x3_reduce", channels_in, double_reduce, 1)
        self._add(f"{name}_double_3x3_1", double_reduce, double_first, 3)
        self._add(f"{name}_double_3x3_2", double_first, double, 3, inception.stride)
        if inception.projection:
            self._add(f"{name}_pool_proj", channels_in, inception.projection, 1)
        return inception.one + three + double + (inception.projection or channels_in)

    def _layers(self, *names: str) -> dict[str, nn.Module]:
        """Convolution, BN and ReLU of each name, in order."""
        layers: dict[str, nn.Module] = {}
        for name in names:
            layers[name] = self.get_submodule(name)
            layers[f"{name}_bn"] = self.get_submodule(f"{name}_bn")
            layers[f"{name}_relu"] = nn.ReLU(inplace=True)
        return layers

    def _inception(self, name: str) -> Join:
        inception, prefix = INCEPTIONS[name], f"inception_{name}"
        double = f"{prefix}_double_3x3"
        branches: dict[str, nn.Module] = {}
        if inception.one:
            branches["1x1"] = sequence(self._layers(f"{prefix}_1x1"))
        branches["3x3"] = sequence(self._layers(f"{prefix}_3x3_reduce", f"{prefix}_3x3"))
        branches["double_3x3"] = sequence(self._layers(f"{double}_reduce", f"{double}_1", f"{double}_2"))
        if inception.projection:
            pool = nn.AvgPool2d(3, 1, 1) if inception.pool == "average" else nn.MaxPool2d(3, 1, 1)
            branches["pool"] = sequence({"pool": pool, **self._layers(f"{prefix}_pool_proj")})
        else:
            branches["pool"] = HalvingMaxPool()
        return Join(branches)

    def blocks(self) -> list[Block]:
        conv1, conv2 = self._layers("conv1_7x7_s2"), self._layers("conv2_3x3_reduce", "conv2_3x3")
        pool1, pool2 = nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(3, 2, ceil_mode=True)
        stages: dict[str, list[tuple[nn.Module, int, int]]] = {
            "stem": [(sequence({**conv1, "pool1_3x3_s2": pool1}), 64, STRIDES["stem"])],
            "res2": [(sequence({**conv2, "pool2_3x3_s2": pool2}), 192, STRIDES["res2"])],
        }
        for stage, names in STAGE_INCEPTIONS.items():
            stages[stage] = [(self._inception(name), self._channels[name], STRIDES[stage]) for name in names]
        return number_blocks(stages)

    def head(self, features: Tensor) -> Tensor:
        pooled = torch.flatten(functional.adaptive_avg_pool2d(features, 1), 1)
        scores: Tensor = self.last_linear(pooled)
        return scores
