"""ResNet (He et al., CVPR 2016), with the names and numbers of torchvision's ``resnet18`` ... ``resnet152``.

As there, a bottleneck's stride sits on its 3x3 convolution ("v1.5"), not on its first 1x1 as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kinet.models.backbone import Backbone, Block, number_blocks
from kinet.models.inner_width import inner_channels


class BasicBlock(nn.Module):
    """Two 3x3 convolutions of ``planes`` channels and a residual; ``inner_width`` scales the first."""

    expansion = 1

    def __init__(self, channels_in: int, planes: int, stride: int, inner_width: float) -> None:
        super().__init__()
        inner = inner_channels(planes, inner_width)
        self.conv1 = nn.Conv2d(channels_in, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(channels_in, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu(y)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions to 4 ``planes`` channels and a residual.

    ``inner_width`` scales the ``planes`` between the 1x1 convolutions.
    """

    expansion = 4

    def __init__(self, channels_in: int, planes: int, stride: int, inner_width: float) -> None:
        super().__init__()
        inner, channels_out = inner_channels(planes, inner_width), planes * self.expansion
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu(y)
        return result


def projection(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """The residual's 1x1 convolution where its shape changes, else None."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


# depth: (unit, units in layer1 ... layer4). 200 is a depth of He et al., "Identity Mappings in Deep Residual
# Networks" (ECCV 2016), here with the units of the other depths.
LAYOUTS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    10: (BasicBlock, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
    200: (Bottleneck, (3, 24, 36, 3)),
}
PLANES = (64, 128, 256, 512)
NARROW_PLANES = (24, 48, 96, 192)


class ResNet(Backbone):
    """ResNet of ``depth`` 18, 34, 50, 101, 152 or 200; or 10 with ``NARROW_PLANES``, which learns from scratch quickly.

    ``feature_channels`` is 512 for 18 and 34, 2048 for the deeper ones. Stages: stem = conv1, bn1, relu, maxpool
    (stride 4); res2 ... res5 = layer1 ... layer4, a residual unit a block.
    Source: torchvision/models/resnet.py (names, initialisation, strides).
    """

    def __init__(
        self,
        depth: int,
        classes: int = 1000,
        inner_width: float = 1.0,
        stage_planes: tuple[int, int, int, int] = PLANES,
    ) -> None:
        super().__init__()
        unit, repeats = LAYOUTS[depth]
        self.name = f"resnet{depth}" + ("_narrow" if stage_planes == NARROW_PLANES else "")
        channels = stage_planes[0]
        self.stage_channels = [planes * unit.expansion for planes in stage_planes]
        self.feature_channels = self.stage_channels[-1]
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        layers: list[nn.Sequential] = []
        for index, (planes, count) in enumerate(zip(stage_planes, repeats, strict=True)):
            units: list[nn.Module] = []
            for number in range(count):
                stride = 2 if number == 0 and index > 0 else 1
                units.append(unit(channels, planes, stride, inner_width))
                channels = planes * unit.expansion
            layers.append(nn.Sequential(*units))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def blocks(self) -> list[Block]:
        stem = nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool)
        stages: dict[str, list[tuple[nn.Module, int, int]]] = {"stem": [(stem, self.conv1.out_channels, 4)]}
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        for index, (layer, channels) in enumerate(zip(layers, self.stage_channels, strict=True)):
            stages[f"res{index + 2}"] = [(unit, channels, 4 * 2**index) for unit in layer]
        return number_blocks(stages)

    def head(self, features: Tensor) -> Tensor:
        pooled = torch.flatten(nn.functional.adaptive_avg_pool2d(features, 1), 1)
        scores: Tensor = self.fc(pooled)
        return scores
