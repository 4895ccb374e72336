"""Inception V3 (Szegedy et al., CVPR 2016), with the names and numbers of torchvision's ``inception_v3``.

The auxiliary classifier is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kinet.models.backbone import Backbone, Block, number_blocks
from kinet.models.inner_width import inner_channels

Size = int | tuple[int, int]


class ConvBN(nn.Module):
    """Convolution without bias, BN (epsilon 0.001), ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


def average_pool(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, 1, 1)


def halving_max_pool(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, 2)


class InceptionA(nn.Module):
    """Mixed_5b ... 5d: 1x1, 5x5 and double 3x3 convolutions, average pooling. 224 + ``pool_features``."""

    def __init__(self, channels_in: int, pool_features: int, inner_width: float) -> None:
        super().__init__()
        five, double, middle = (inner_channels(channels, inner_width) for channels in (48, 64, 96))
        self.branch1x1 = ConvBN(channels_in, 64, 1)
        self.branch5x5_1 = ConvBN(channels_in, five, 1)
        self.branch5x5_2 = ConvBN(five, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvBN(channels_in, double, 1)
        self.branch3x3dbl_2 = ConvBN(double, middle, 3, padding=1)
        self.branch3x3dbl_3 = ConvBN(middle, 96, 3, padding=1)
        self.branch_pool = ConvBN(channels_in, pool_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch1x1(x)
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pool = self.branch_pool(average_pool(x))
        return torch.cat([one, five, double, pool], 1)


class InceptionB(nn.Module):
    """Mixed_6a: 3x3 and double 3x3 convolutions of stride 2, max pooling. 480 + ``channels_in`` channels."""

    def __init__(self, channels_in: int, inner_width: float) -> None:
        super().__init__()
        double, middle = (inner_channels(channels, inner_width) for channels in (64, 96))
        self.branch3x3 = ConvBN(channels_in, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvBN(channels_in, double, 1)
        self.branch3x3dbl_2 = ConvBN(double, middle, 3, padding=1)
        self.branch3x3dbl_3 = ConvBN(middle, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3(x)
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([three, double, halving_max_pool(x)], 1)


class InceptionC(nn.Module):
    """Mixed_6b ... 6e: factorised 7x7 convolutions of ``width`` inner channels. 768 channels."""

    def __init__(self, channels_in: int, width: int, inner_width: float) -> None:
        super().__init__()
        inner = inner_channels(width, inner_width)
        row: tuple[Size, Size] = ((1, 7), (0, 3))  # kernel, padding
        column: tuple[Size, Size] = ((7, 1), (3, 0))
        self.branch1x1 = ConvBN(channels_in, 192, 1)
        self.branch7x7_1 = ConvBN(channels_in, inner, 1)
        self.branch7x7_2 = ConvBN(inner, inner, row[0], padding=row[1])
        self.branch7x7_3 = ConvBN(inner, 192, column[0], padding=column[1])
        self.branch7x7dbl_1 = ConvBN(channels_in, inner, 1)
        self.branch7x7dbl_2 = ConvBN(inner, inner, column[0], padding=column[1])
        self.branch7x7dbl_3 = ConvBN(inner, inner, row[0], padding=row[1])
        self.branch7x7dbl_4 = ConvBN(inner, inner, column[0], padding=column[1])
        self.branch7x7dbl_5 = ConvBN(inner, 192, row[0], padding=row[1])
        self.branch_pool = ConvBN(channels_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch1x1(x)
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pool = self.branch_pool(average_pool(x))
        return torch.cat([one, seven, double, pool], 1)


class InceptionD(nn.Module):
    """Mixed_7a: 3x3 and 7x7x3 convolutions of stride 2, max pooling. 512 + ``channels_in`` channels."""

    def __init__(self, channels_in: int, inner_width: float) -> None:
        super().__init__()
        inner = inner_channels(192, inner_width)
        self.branch3x3_1 = ConvBN(channels_in, inner, 1)
        self.branch3x3_2 = ConvBN(inner, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvBN(channels_in, inner, 1)
        self.branch7x7x3_2 = ConvBN(inner, inner, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvBN(inner, inner, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvBN(inner, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        # an input image below 75 pixels leaves 2 here, where the 3x3 windows need 3
        x = functional.pad(x, (0, max(0, 3 - width), 0, max(0, 3 - height)))
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([three, self.branch7x7x3_4(seven), halving_max_pool(x)], 1)


class InceptionE(nn.Module):
    """Mixed_7b, 7c: 3x3 convolutions whose last step is split into 1x3 and 3x1. 2048 channels."""

    def __init__(self, channels_in: int, inner_width: float) -> None:
        super().__init__()
        inner, double = (inner_channels(channels, inner_width) for channels in (384, 448))
        self.branch1x1 = ConvBN(channels_in, 320, 1)
        self.branch3x3_1 = ConvBN(channels_in, inner, 1)
        self.branch3x3_2a = ConvBN(inner, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvBN(inner, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvBN(channels_in, double, 1)
        self.branch3x3dbl_2 = ConvBN(double, inner, 3, padding=1)
        self.branch3x3dbl_3a = ConvBN(inner, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvBN(inner, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvBN(channels_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch1x1(x)
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pool = self.branch_pool(average_pool(x))
        threes = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        doubles = [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([one, *threes, *doubles, pool], 1)


class InceptionV3(Backbone):
    """23,834,568 parameters with 1000 classes. ``feature_channels`` is 2048.

    Stages: stem = Conv2d_1a, 2a, 2b, max pooling; res2 = Conv2d_3b, 4a, max pooling (stride 8);
    res3 = Mixed_5b ... 5d; res4 = Mixed_6a ... 6e; res5 = Mixed_7a ... 7c. ``inner_width`` scales what lies
    inside the Mixed modules.

    Strides are nominal: several convolutions have no padding, so maps are a few pixels smaller than
    input / stride (299 gives 73, 35, 35, 17, 8). Inputs need 64 pixels or more on each side.

    The published weights expect (x - 0.5) / 0.5, which torchvision reaches with ``transform_input``; here
    ``mean`` and ``std`` do it. Source: torchvision/models/inception.py (names, initialisation, strides).
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    input_size = 299
    name = "inception_v3"
    feature_channels = 2048

    def __init__(self, classes: int = 1000, inner_width: float = 1.0) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBN(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvBN(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvBN(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvBN(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBN(80, 192, 3)
        self.Mixed_5b = InceptionA(192, 32, inner_width)
        self.Mixed_5c = InceptionA(256, 64, inner_width)
        self.Mixed_5d = InceptionA(288, 64, inner_width)
        self.Mixed_6a = InceptionB(288, inner_width)
        self.Mixed_6b = InceptionC(768, 128, inner_width)
        self.Mixed_6c = InceptionC(768, 160, inner_width)
        self.Mixed_6d = InceptionC(768, 160, inner_width)
        self.Mixed_6e = InceptionC(768, 192, inner_width)
        self.Mixed_7a = InceptionD(768, inner_width)
        self.Mixed_7b = InceptionE(1280, inner_width)
        self.Mixed_7c = InceptionE(2048, inner_width)
        self.dropout = nn.Dropout()
        self.fc = nn.Linear(2048, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.1)

    def blocks(self) -> list[Block]:
        stem = nn.Sequential(self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3, nn.MaxPool2d(3, 2))
        conv = nn.Sequential(self.Conv2d_3b_1x1, self.Conv2d_4a_3x3, nn.MaxPool2d(3, 2))
        return number_blocks(
            {
                "stem": [(stem, 64, 4)],
                "res2": [(conv, 192, 8)],
                "res3": [(self.Mixed_5b, 256, 8), (self.Mixed_5c, 288, 8), (self.Mixed_5d, 288, 8)],
                "res4": [
                    (self.Mixed_6a, 768, 16),
                    (self.Mixed_6b, 768, 16),
                    (self.Mixed_6c, 768, 16),
                    (self.Mixed_6d, 768, 16),
                    (self.Mixed_6e, 768, 16),
                ],
                "res5": [(self.Mixed_7a, 1280, 32), (self.Mixed_7b, 2048, 32), (self.Mixed_7c, 2048, 32)],
            }
        )

    def head(self, features: Tensor) -> Tensor:
        pooled = torch.flatten(functional.adaptive_avg_pool2d(features, 1), 1)
        scores: Tensor = self.fc(self.dropout(pooled))
        return scores
