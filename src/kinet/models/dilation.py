"""Backbones at a higher resolution: strides taken out, the layers behind them dilated (Yu and Koltun, ICLR 2016)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from kinet.errors import InputError
from kinet.models.backbone import Backbone, Block
from kinet.models.densenet import DenseNet121
from kinet.models.mobilenet_v2 import MobileNetV2
from kinet.models.resnet import ResNet

OUTPUT_STRIDES = (4, 8, 16, 32)


class DilatedAverage(nn.Module):
    """2x2 average pooling without its stride, over pixels ``dilation`` apart; the border is repeated."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        step = self.dilation
        padded = functional.pad(x, (0, step, 0, step), mode="replicate")
        rows = padded[:, :, :-step] + padded[:, :, step:]
        return (rows[..., :-step] + rows[..., step:]) / 4


def dilate(backbone: Backbone, output_stride: int) -> list[Block]:
    """Change ``backbone`` so that no block's stride is above ``output_stride``; returns its blocks.

    Parameters keep their names and values, and every k-th pixel of the new last feature map is that of the old one
    (for sides that are multiples of 32), so that ImageNet's weights stay good.

    Raises:
        InputError: a stride that there is not, or a backbone whose pooling can't be dilated.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise InputError(f"output_stride: {output_stride} is none of {', '.join(map(str, OUTPUT_STRIDES))}")
    blocks = backbone.blocks()
    if not isinstance(backbone, ResNet | DenseNet121 | MobileNetV2) and blocks[-1].stride > output_stride:
        raise InputError(f"{type(backbone).__name__} cannot be dilated; take a ResNet, DenseNet-121 or MobileNetV2")
    dilation = 1
    for block in blocks:
        if block.stride > output_stride:
            dilate_block(block, before=dilation, after=block.stride // output_stride)
            dilation = block.stride // output_stride
    return [Block(block.name, block.module, block.channels, min(block.stride, output_stride)) for block in blocks]


def dilate_block(block: Block, before: int, after: int) -> None:
    """Dilate by ``before`` up to the layer that halves the resolution, which halves no more, by ``after`` behind it."""
    dilation = before
    for parent in list(block.module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                kernel = child.kernel_size[0]
                child.dilation = (dilation, dilation)
                child.padding = (dilation * (kernel // 2), dilation * (kernel // 2))
                if child.stride != (1, 1):
                    child.stride = (1, 1)
                    dilation = after
            elif isinstance(child, nn.AvgPool2d):
                setattr(parent, name, DilatedAverage(dilation))
                dilation = after
