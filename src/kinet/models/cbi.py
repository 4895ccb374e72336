"""Cross Branch Integration: what the auxiliary branches saw gates the action branch (section 3.3, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Gate = Literal["product", "sigmoid"]


class CrossBranchIntegration(nn.Module):
    """Let auxiliary feature maps modulate the action branch's, at one place of the network.

    For the action features a and every auxiliary x in (scene s, human h):

        g_x = ReLU(a + BN(a * x))                 element-wise product, then a residual-like connection
        out = conv1x1([a, g_s, g_h])              back to the channels of a

    The paper gives the parts, not the formula; this reading is the project's, see "Readings of the paper" in the
    README. ``gate="sigmoid"`` replaces a * x by a * sigmoid(x). The 1x1 convolution starts as the identity on a:
    at the first step the action branch is the pretrained backbone, untouched.

    Args:
        channels: channels of every branch at this place.
        auxiliaries: how many auxiliary branches come in, 1 or 2.
        gate: what multiplies a.
    """

    def __init__(self, channels: int, auxiliaries: int, gate: Gate = "product") -> None:
        super().__init__()
        self.gate = gate
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(auxiliaries))
        self.reduce = nn.Conv2d(channels * (1 + auxiliaries), channels, 1)
        with torch.no_grad():
            self.reduce.weight.zero_()
            self.reduce.weight[:, :channels, 0, 0] = torch.eye(channels)
            assert self.reduce.bias is not None
            self.reduce.bias.zero_()

    def forward(self, action: Tensor, auxiliaries: Sequence[Tensor]) -> Tensor:
        """(B, C, H, W) action features and as many auxiliary maps of the same shape -> (B, C, H, W)."""
        gated = [self.gated(index, action, auxiliary) for index, auxiliary in enumerate(auxiliaries)]
        integrated: Tensor = self.reduce(torch.cat([action, *gated], dim=1))
        return integrated

    def gated(self, index: int, action: Tensor, auxiliary: Tensor) -> Tensor:
        """g_x of the auxiliary branch number ``index``: (B, C, H, W), not negative."""
        modulation = auxiliary.sigmoid() if self.gate == "sigmoid" else auxiliary
        return nn.functional.relu(action + self.norms[index](action * modulation))
