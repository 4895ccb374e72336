"""PSPNet (Zhao et al., CVPR 2017): a backbone at high resolution, pyramid pooling, and an auxiliary head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kinet.config import TrunkConfig
from kinet.models.backbone import Backbone
from kinet.models.dilation import dilate

BINS = (1, 2, 3, 6)
"""Sides of the pyramid's pooled maps."""
DROPOUT = 0.1


class PSPOutput(NamedTuple):
    """Logits (B, C, h, w) at 1/output_stride of the input: ``parts``, and ``auxiliary`` from res4 in training."""

    parts: Tensor
    auxiliary: Tensor | None


class PyramidPooling(nn.Module):
    """The features beside their means over 1x1, 2x2, 3x3 and 6x6 regions: twice the channels (section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), *conv_bn_relu(channels, channels // len(BINS), 1))
            for bins in BINS
        )

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        pooled = [functional.interpolate(level(x), size=size, mode="bilinear") for level in self.levels]
        return torch.cat([x, *pooled], dim=1)


class PSPNet(nn.Module):
    """Parts of every pixel.

    Args:
        backbone: is changed to ``output_stride`` and used up to its last feature map.
        classes: parts with the background.
        output_stride: input pixels per output pixel; the paper's is 8.
        width: channels of the head's 3x3 convolution; the auxiliary head has half of them.

    Source: hszhao/semseg, model/pspnet.py (head, dropout, the place of the auxiliary loss).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, classes: int, output_stride: int = 8, width: int = 512) -> None:
        super().__init__()
        self.output_stride = output_stride
        self.trunk = TrunkConfig(backbone.name, output_stride)
        blocks = dilate(backbone, output_stride)
        self.backbone = nn.ModuleDict({block.name: block.module for block in blocks})
        self.auxiliary_block = [block for block in blocks if block.stage == "res4"][-1].name
        channels = {block.name: block.channels for block in blocks}
        self.pyramid = PyramidPooling(backbone.feature_channels)
        self.classify = head(
            backbone.feature_channels // len(BINS) * len(BINS) + backbone.feature_channels, width, classes
        )
        self.classify_auxiliary = head(channels[self.auxiliary_block], width // 2, classes)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> PSPOutput:
        """``images``: (B, 3, H, W) uint8 RGB, H and W multiples of the output stride; B > 1 in training."""
        x = ((images.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        auxiliary = None
        for name, block in self.backbone.items():
            x = block(x)
            if self.training and name == self.auxiliary_block:
                auxiliary = self.classify_auxiliary(x)
        return PSPOutput(self.classify(self.pyramid(x)), auxiliary)

    def feature_blocks(self) -> dict[str, nn.Module]:
        """The backbone's blocks by name, in order, the last feature map's last."""
        return dict(self.backbone.items())

    def new_layers(self) -> list[nn.Module]:
        """The parts that no published weights fill."""
        return [self.pyramid, self.classify, self.classify_auxiliary]


def conv_bn_relu(channels_in: int, channels_out: int, kernel: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


def head(channels: int, width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn_relu(channels, width, 3), nn.Dropout2d(DROPOUT), nn.Conv2d(width, classes, 1))


def parsing_loss(output: PSPOutput, masks: Tensor, auxiliary_weight: float, ignore: int) -> Tensor:
    """Cross-entropy over pixels, plus ``auxiliary_weight`` times the auxiliary head's (the paper's is 0.4).

    Args:
        masks: (B, H, W) uint8 at the input's size; the logits are enlarged to it. Pixels of ``ignore`` do not count.
    """
    loss = pixel_loss(output.parts, masks, ignore)
    if output.auxiliary is not None:
        loss = loss + auxiliary_weight * pixel_loss(output.auxiliary, masks, ignore)
    return loss


def pixel_loss(logits: Tensor, masks: Tensor, ignore: int) -> Tensor:
    """The mean over the pixels that count; 0 where none does."""
    size = (masks.shape[1], masks.shape[2])
    enlarged = functional.interpolate(logits.float(), size=size, mode="bilinear")
    total = functional.cross_entropy(enlarged, masks.long(), ignore_index=ignore, reduction="sum")
    return total / (masks != ignore).sum().clamp(min=1)
