"""Action Knowledge Graph: one graph convolution over the branches' pooled features (sections 3.3 and 3.4, Figure 4)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

Relation = Literal["dot", "embedded", "concatenation"]


class ActionKnowledgeGraph(nn.Module):
    """Each action node gathers what the action, scene and human nodes of the window tell it.

    The nodes X are the pooled features of K branches in N_seg frames, d channels each. The paper computes

        G_ab = softmax_b f(x_a, x_b)              Eq. 4, with f one of Eq. 1, 2, 3
        Z    = ReLU(I_mask * G X W)               Eq. 5, W: d x d

    and uses the action rows of Z alone. In those rows I_mask is 1 everywhere, so computing them alone is exact:
    the scene and human rows, and with them the mask, never reach the result (tests/models/test_akg.py holds the
    whole N x N graph as the reference).

    W starts as the identity, so that pretrained features pass the graph at the first step as they pass a CBI.

    Args:
        channels: d.
        relation: f: ``dot`` (Eq. 1), ``embedded`` dot product (Eq. 2), ``concatenation`` (Eq. 3). Theta and phi
            project to d / 2.
        scale: divide dot products by the square root of their dimension. Unscaled products of pooled ReLU features
            are so large that the softmax picks a single node; the edge entropy in the training log shows it.
        residual: add x_a to z_a.
    """

    def __init__(
        self, channels: int, relation: Relation = "dot", *, scale: bool = False, residual: bool = False
    ) -> None:
        super().__init__()
        self.relation = relation
        self.residual = residual
        projected = channels if relation == "dot" else max(1, channels // 2)
        self.scale = projected**-0.5 if scale else 1.0
        if relation != "dot":
            self.theta = nn.Linear(channels, projected, bias=False)
            self.phi = nn.Linear(channels, projected, bias=False)
        if relation == "concatenation":
            self.project = nn.Linear(2 * projected, 1, bias=False)
        self.weight = nn.Linear(channels, channels, bias=False)
        nn.init.eye_(self.weight.weight)

    def forward(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Action nodes after the graph, and the edges that lead to them.

        Args:
            nodes: (B, N_seg, K, d), the action branch first.

        Returns:
            z: (B, N_seg, d), not negative (without ``residual``).
            edges: (B, N_seg, K * N_seg) float32 or wider, rows that sum to 1; column k * N_seg + i is
                branch k in frame i.
        """
        batch, segments, branches, channels = nodes.shape
        with full_precision(nodes.device.type):
            wide = nodes.to(torch.promote_types(nodes.dtype, torch.float32))
            everyone = wide.transpose(1, 2).reshape(batch, branches * segments, channels)
            action = everyone[:, :segments]
            edges = self.relate(action, everyone).softmax(dim=2)
            gathered = edges @ everyone
        z = nn.functional.relu(self.weight(gathered))
        return (z + action if self.residual else z), edges

    def relate(self, a: Tensor, b: Tensor) -> Tensor:
        """f(x_a, x_b) for all pairs: (B, A, d) and (B, N, d) -> (B, A, N)."""
        if self.relation == "dot":  # Eq. 1
            return torch.matmul(a, b.transpose(1, 2)) * self.scale
        theta, phi = self.theta(a), self.phi(b)
        if self.relation == "embedded":  # Eq. 2
            return torch.matmul(theta, phi.transpose(1, 2)) * self.scale
        # Eq. 3: W [theta, phi] = W_theta theta + W_phi phi
        w_theta, w_phi = self.project.weight[0].chunk(2)
        return nn.functional.relu(torch.matmul(theta, w_theta)[:, :, None] + torch.matmul(phi, w_phi)[:, None, :])


def full_precision(device: str) -> AbstractContextManager[object]:
    """No autocast inside: a bf16 dot product of d terms is too coarse for the softmax."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def edge_entropy(edges: Tensor) -> Tensor:
    """Mean entropy of the action nodes' edges, as a share of its maximum: 0 picks one node, 1 averages all.

    Args:
        edges: (B, A, N), rows that sum to 1.
    """
    entropy: Tensor = torch.special.entr(edges).sum(dim=2).mean()
    maximum = torch.log(torch.tensor(float(edges.shape[2])))
    return entropy / maximum.clamp(min=1e-12).to(entropy.device)
