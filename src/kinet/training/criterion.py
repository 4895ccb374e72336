"""The joint loss of the three tasks (section 3.5, Eq. 6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kinet.config import LossConfig
from kinet.models.kinet import KINetOutput


class Targets(NamedTuple):
    """What B clips of N segments should give."""

    action: Tensor
    """(B,) int64 action classes."""
    human: Tensor | None
    """(B, N, h, w) uint8: 255 x the human teacher's probability of a person."""
    scene_classes: Tensor | None
    """(B, N, T) int64: the scene teacher's T best classes, best first."""
    scene_scores: Tensor | None
    """(B, N, T) float: their log-probabilities."""


def joint_loss(output: KINetOutput, targets: Targets, config: LossConfig) -> dict[str, Tensor]:
    """The loss terms by name (``action``, ``human``, ``scene``) and their weighted sum ``total``.

    A term is there if both the network and the teachers give its part. The auxiliary losses are means over the
    segments, as the paper asks. Pseudo labels are the teachers' decisions, or their probabilities with
    ``config.soft_labels``.
    """
    terms = {"action": F.cross_entropy(output.action.float(), targets.action)}
    if output.human is not None and targets.human is not None:
        terms["human"] = human_loss(output.human, targets.human, config)
    if output.scene is not None and targets.scene_classes is not None and targets.scene_scores is not None:
        terms["scene"] = scene_loss(output.scene, targets.scene_classes, targets.scene_scores, config)
    weights = {"action": config.action, "human": config.human, "scene": config.scene}
    terms["total"] = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return terms


def human_loss(logits: Tensor, probability: Tensor, config: LossConfig) -> Tensor:
    """Cross-entropy over {background, human} per pixel: (B, N, 2, h, w) logits, (B, N, h, w) uint8 labels."""
    logits = logits.float().flatten(0, 1)
    probability = probability.flatten(0, 1)
    if not config.soft_labels:
        return F.cross_entropy(logits, (probability > 127).long())
    teacher = (probability.float() / 255).clamp(1e-3, 1 - 1e-3)
    person = torch.sigmoid(teacher.logit() / config.temperature)
    target = torch.stack([1 - person, person], dim=1)
    return F.cross_entropy(logits / config.temperature, target) * config.temperature**2


def scene_loss(logits: Tensor, classes: Tensor, scores: Tensor, config: LossConfig) -> Tensor:
    """Cross-entropy with the teacher's best class, or with its T best ones: (B, N, S) logits, (B, N, T) labels."""
    logits = logits.float().flatten(0, 1)
    classes = classes.flatten(0, 1)
    if not config.soft_labels:
        return F.cross_entropy(logits, classes[:, 0])
    target = torch.softmax(scores.float().flatten(0, 1) / config.temperature, dim=1)
    student = torch.log_softmax(logits / config.temperature, dim=1).gather(1, classes)
    return -(target * student).sum(dim=1).mean() * config.temperature**2
