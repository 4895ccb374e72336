"""DenseNet-121 (Huang et al., CVPR 2017), with the names and numbers of torchvision's ``densenet121``."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kinet.models.backbone import Backbone, Block, number_blocks
from kinet.models.inner_width import inner_channels

LAYERS = (6, 12, 24, 16)
"""Dense layers in each of the four blocks of DenseNet-121."""
GROWTH = 32
"""Channels that a layer adds: the paper's k."""
BOTTLENECK = 4 * GROWTH
STEM_CHANNELS = 64


class DenseLayer(nn.Module):
    """Adds ``GROWTH`` channels to its input: BN, ReLU, 1x1, BN, ReLU, 3x3. ``inner_width`` scales what is between."""

    def __init__(self, channels_in: int, inner_width: float) -> None:
        super().__init__()
        inner = inner_channels(BOTTLENECK, inner_width)
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, GROWTH, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(self.relu1(self.norm1(x)))
        new = self.conv2(self.relu2(self.norm2(new)))
        return torch.cat([x, new], dim=1)


def transition(channels_in: int) -> nn.Sequential:
    """Half of the channels at half of the resolution."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels_in),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(channels_in, channels_in // 2, 1, bias=False),
            pool=nn.AvgPool2d(2, 2),
        )
    )


class DenseNet121(Backbone):
    """7,978,856 parameters with 1000 classes. ``feature_channels`` is 1024.

    Stages: stem = conv0 ... pool0 (stride 4); res2 ... res5 = denseblock1 ... denseblock4, a dense layer a block,
    the first with the transition before it, the last with norm5 and its ReLU behind it.
    Source: torchvision/models/densenet.py (names, initialisation).
    """

    name = "densenet121"
    feature_channels = 1024

    def __init__(self, classes: int = 1000, inner_width: float = 1.0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(3, STEM_CHANNELS, 7, 2, 3, bias=False),
                norm0=nn.BatchNorm2d(STEM_CHANNELS),
                relu0=nn.ReLU(inplace=True),
                pool0=nn.MaxPool2d(3, 2, 1),
            )
        )
        channels = STEM_CHANNELS
        for number, count in enumerate(LAYERS, start=1):
            dense = nn.Sequential()
            for layer in range(1, count + 1):
                dense.add_module(f"denselayer{layer}", DenseLayer(channels, inner_width))
                channels += GROWTH
            self.features.add_module(f"denseblock{number}", dense)
            if number < len(LAYERS):
                self.features.add_module(f"transition{number}", transition(channels))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def blocks(self) -> list[Block]:
        part = self.features.get_submodule
        stem = nn.Sequential(*(part(name) for name in ("conv0", "norm0", "relu0", "pool0")))
        stages: dict[str, list[tuple[nn.Module, int, int]]] = {"stem": [(stem, STEM_CHANNELS, 4)]}
        channels, last = STEM_CHANNELS, len(LAYERS)
        for number, count in enumerate(LAYERS, start=1):
            entries: list[tuple[nn.Module, int, int]] = []
            for layer in range(1, count + 1):
                module = part(f"denseblock{number}.denselayer{layer}")
                if layer == 1 and number > 1:
                    module = nn.Sequential(part(f"transition{number - 1}"), module)
                    channels //= 2
                if layer == count and number == last:
                    module = nn.Sequential(module, part("norm5"), nn.ReLU(inplace=True))
                channels += GROWTH
                entries.append((module, channels, 2 ** (number + 1)))
            stages[f"res{number + 1}"] = entries
        return number_blocks(stages)

    def head(self, features: Tensor) -> Tensor:
        pooled = torch.flatten(nn.functional.adaptive_avg_pool2d(features, 1), 1)
        scores: Tensor = self.classifier(pooled)
        return scores


def present_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published file's tensors under today's names: ``denselayer1.norm.1.weight`` was ``norm1.weight``'s.

    torchvision renames them when loading (densenet.py, ``_load_state_dict``), since module names may hold no dots.
    """
    old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    return {old.sub(r"\1\2", key): tensor for key, tensor in state.items()}
