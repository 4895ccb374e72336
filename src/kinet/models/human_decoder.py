"""The head that turns the human branch into a mask of people; used in training, dropped at inference."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

WIDTH = 64
OUTPUT_STRIDE = 8


class HumanDecoder(nn.Module):
    """From the human branch's stage outputs to {background, human} logits at 1/8 of the input.

    The deepest map is reduced, enlarged to the next shallower one of the branch, added to it, and classified: a
    feature pyramid of as many levels as the branch has stages. Shared layers are not read, so that what the mask
    needs has to be learnt in the human branch.

    Args:
        channels: channels of the human branch's stage outputs, shallowest first.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c in channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True)
        )
        self.classify = nn.Conv2d(WIDTH, 2, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Stage outputs (B, C_i, H_i, W_i), shallowest first -> logits (B, 2, *size)."""
        x: Tensor = self.laterals[-1](maps[-1])
        for lateral, feature_map in zip(reversed(self.laterals[:-1]), reversed(maps[:-1]), strict=True):
            x = lateral(feature_map) + enlarge(x, (feature_map.shape[2], feature_map.shape[3]))
        return enlarge(self.classify(self.smooth(x)), size)


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    return nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def mask_side(input_size: int) -> int:
    """Side of the mask logits for a square input, in pixels: 1/8 of it, rounded up."""
    return -(-input_size // OUTPUT_STRIDE)
