"""MobileNetV2 (Sandler et al., CVPR 2018), with the names and numbers of torchvision's ``mobilenet_v2``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kinet.models.backbone import Backbone, Block, number_blocks
from kinet.models.inner_width import inner_channels

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
STAGE_FEATURES = {
    "stem": range(0, 1),
    "res2": range(1, 4),
    "res3": range(4, 7),
    "res4": range(7, 14),
    "res5": range(14, 19),
}


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
        layers: list[nn.Module] = []
        hidden = channels_in
        if expansion != 1:
            hidden = inner_channels(channels_in * expansion, inner_width)
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

    ``res2_1`` still has the stem's stride of 2; the other blocks have their stage's.
    Source: torchvision/models/mobilenetv2.py (names, initialisation, strides).
    """

    name = "mobilenet_v2"
    feature_channels = LAST_CHANNELS

    def __init__(self, classes: int = 1000, inner_width: float = 1.0) -> None:
        super().__init__()
        channels, total_stride = 32, 2
        layers: list[nn.Module] = [conv_bn_relu6(3, channels, 3, stride=2)]
        self._outputs = [(channels, total_stride)]  # of each of `features`
        for expansion, channels_out, repeats, first_stride in INVERTED_RESIDUALS:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                layers.append(InvertedResidual(channels, channels_out, stride, expansion, inner_width))
                channels, total_stride = channels_out, total_stride * stride
                self._outputs.append((channels, total_stride))
        layers.append(conv_bn_relu6(channels, LAST_CHANNELS, 1))
        self._outputs.append((LAST_CHANNELS, total_stride))
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
                stage: [(self.features[i], *self._outputs[i]) for i in indices]
                for stage, indices in STAGE_FEATURES.items()
            }
        )

    def head(self, features: Tensor) -> Tensor:
        pooled = torch.flatten(nn.functional.adaptive_avg_pool2d(features, 1), 1)
        scores: Tensor = self.classifier(pooled)
        return scores
