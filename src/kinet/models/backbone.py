"""What KINet needs to know of a 2D backbone: its blocks in order, and where its stages end.

Every backbone keeps the parameter names of its published weights. ``blocks`` gives its layers as a sequence of
named blocks, so that KINet can share the first ones, copy the others into branches and put a CBI behind any of
them. The stages have the same names in all backbones, after ResNet's resolutions:

======  ==============  ===========================================================
stage   output stride   blocks
======  ==============  ===========================================================
stem    2 or 4          ``stem_1``
res2    4 (8)           ``res2_1`` ...
res3    8               ``res3_1`` ...
res4    16              ``res4_1`` ... the paper's "third stage"
res5    32              ``res5_1`` ... the last
======  ==============  ===========================================================
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

STAGES = ("stem", "res2", "res3", "res4", "res5")


@dataclass(frozen=True)
class Block:
    """One step of a backbone: ``module`` maps (B, C_in, H, W) to (B, channels, H', W')."""

    name: str
    """``<stage>_<number>``, numbered from 1, for example ``res4_6``."""
    module: nn.Module
    channels: int
    """Channels of the output."""
    stride: int
    """Input pixels per output pixel, on each axis."""

    @property
    def stage(self) -> str:
        return self.name.rsplit("_", 1)[0]


class Backbone(nn.Module):
    """An ImageNet classifier that can be taken apart into blocks.

    A subclass creates its layers under their published names and implements ``blocks``, ``features_out`` and
    ``head``.
    """

    name: str
    """Its name in ``kinet.models.zoo.BACKBONES``."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Channel means of the normalised input, RGB in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Channel standard deviations of the normalised input."""
    input_size: int = 224
    """Side of the square input that the published weights were trained on, in pixels."""
    feature_channels: int
    """Channels of the last block: the paper's d."""

    def blocks(self) -> list[Block]:
        """All layers up to the last feature map, in order. The modules are this network's own, not copies."""
        raise NotImplementedError  # pragma: no cover - abstract

    def head(self, features: Tensor) -> Tensor:
        """ImageNet scores (B, classes) from the last feature map (B, feature_channels, H, W)."""
        raise NotImplementedError  # pragma: no cover - abstract

    def forward(self, images: Tensor) -> Tensor:
        """ImageNet scores (B, classes) of normalised images (B, 3, H, W)."""
        x = images
        for block in self.blocks():
            x = block.module(x)
        return self.head(x)


def number_blocks(stages: dict[str, list[tuple[nn.Module, int, int]]]) -> list[Block]:
    """Name the blocks of each stage ``<stage>_1``, ``<stage>_2`` ...; an entry is (module, channels, stride)."""
    return [
        Block(f"{stage}_{number}", module, channels, stride)
        for stage, entries in stages.items()
        for number, (module, channels, stride) in enumerate(entries, start=1)
    ]
