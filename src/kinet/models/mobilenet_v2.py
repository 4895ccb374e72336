"""MobileNetV2 (Sandler et al., CVPR 2018), with the names and the numbers of torchvision's ``mobilenet_v2``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kinet.models.backbone import Backbone, Block, number_blocks

# Table 2 of the paper: expansion t, channels c, repeats n, stride of the first repeat s.
INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST_CHANNELS = 1280
# torchvision's `features` indices in each stage
STAGE_FEATURES = {"stem": range(0, 1), "res2": range(1, 4), "res3": range(4, 7), "res4": range(7, 14), "res5": range(14, 19)}
STRIDES = {"stem": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32}


def conv_bn_relu6(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation; a residual where shape allows.

    ``inner_width`` scales the expanded channels and leaves the output as it is.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int, inner_width: float) -> None:
        super().__init__()
        self.residual = stride == 1 and channels_in == channels_out
        self.channels_out = channels_out
        layers: list[nn.Module] = []
        hidden = channels_in
        if expansion != 1:
            hidden = max(8, round(channels_in * expansion * inner_width))
            layers.append(conv_bn_relu6(channels_in, hidden, 1))
        layers += [
            conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(Backbone):
    """3,504,872 parameters with 1000 classes. ``feature_channels`` is 1280.

    Source: torchvision/models/mobilenetv2.py (names, initialisation, strides).
    """

    feature_channels = LAST_CHANNELS

    def __init__(self, classes: int = 1000, inner_width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn_relu6(3, 32, 3, stride=2)]
        channels = 32
        for expansion, channels_out, repeats, first_stride in INVERTED_RESIDUALS:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                layers.append(InvertedResidual(channels, channels_out, stride, expansion, inner_width))
                channels = channels_out
        layers.append(conv_bn_relu6(channels, LAST_CHANNELS, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST_CHANNELS, classes))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def blocks(self) -> list[Block]:
        return number_blocks(
            {
                stage: [(self.features[i], self._channels(i), STRIDES[stage]) for i in indices]
                for stage, indices in STAGE_FEATURES.items()
            }
        )

    def _channels(self, index: int) -> int:
        layer = self.features[index]
        if isinstance(layer, InvertedResidual):
            return layer.channels_out
        assert isinstance(layer, nn.Sequential)
        convolution = layer[0]
        assert isinstance(convolution, nn.Conv2d)
        return convolution.out_channels

    def head(self, features: Tensor) -> Tensor:
        pooled = torch.flatten(nn.functional.adaptive_avg_pool2d(features, 1), 1)
        scores: Tensor = self.classifier(pooled)
        return scores
