"""The head that turns the human branch into a mask of people; used in training, dropped at inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTH = 64
OUTPUT_STRIDE = 8


class HumanDecoder(nn.Module):
    """From the human branch's stage outputs to {background, human} logits at 1/8 of the input.

    The deepest map is reduced, enlarged to the next shallower one of the branch, added to it, and classified: a
    feature pyramid of as many levels as the branch has stages. Shared layers are not read, so that what the mask
    needs has to be learnt in the human branch.

    Strided convolutions with symmetric padding centre cell i of a map of stride s on input pixel s * i, not on
    s * (i + 1/2); maps are enlarged accordingly, or masks would lie up to 16 pixels off. Layers without padding, as in
    the Inceptions' stems, add a few pixels that the convolution before the classifier has to make up for.

    Args:
        channels: channels of the human branch's stage outputs, shallowest first.
        strides: input pixels per cell of each, in the same order.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = list(strides)
        self.laterals = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c in channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True)
        )
        self.classify = nn.Conv2d(WIDTH, 2, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Stage outputs (B, C_i, H_i, W_i), shallowest first -> logits (B, 2, *size)."""
        x: Tensor = self.laterals[-1](maps[-1])
        for level in reversed(range(len(maps) - 1)):
            shape = (maps[level].shape[2], maps[level].shape[3])
            steps = self.strides[level] / self.strides[level + 1]
            x = self.laterals[level](maps[level]) + sample_grid(x, shape, first=0.0, step=steps)
        # a mask's cell covers OUTPUT_STRIDE pixels: its centre lies half of that, less half a pixel, from its edge
        first = (OUTPUT_STRIDE - 1) / 2 / self.strides[0]
        return sample_grid(self.classify(self.smooth(x)), size, first=first, step=OUTPUT_STRIDE / self.strides[0])


def sample_grid(x: Tensor, size: tuple[int, int], *, first: float, step: float) -> Tensor:
    """Bilinear samples of (B, C, H, W) at rows and columns first, first + step ...: (B, C, *size).

    Positions are in cells of ``x``; those beyond its border are taken at the border.
    """
    rows, columns = (
        interpolation(first + step * torch.arange(count, device=x.device), cells).to(x.dtype)
        for count, cells in zip(size, x.shape[2:], strict=True)
    )
    return rows @ x @ columns.T


def interpolation(positions: Tensor, cells: int) -> Tensor:
    """Weights (P, cells) that interpolate linearly at ``positions`` (P,) between cells 0, 1 ..."""
    distances = positions.clamp(0, cells - 1)[:, None] - torch.arange(cells, device=positions.device)
    return (1 - distances.abs()).clamp(min=0)


def mask_side(input_size: int) -> int:
    """Side of the mask logits for a square input, in pixels: 1/8 of it, rounded up."""
    return -(-input_size // OUTPUT_STRIDE)
