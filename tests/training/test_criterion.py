"""Eq. 6 against its terms written out."""

from __future__ import annotations

import math

import pytest
import torch

from kinet.config import LossConfig
from kinet.models.kinet import KINetOutput
from kinet.training.criterion import Targets, joint_loss

B, N, C, S, T, H, W = 2, 3, 4, 6, 2, 5, 7


def output() -> KINetOutput:
    torch.manual_seed(0)
    return KINetOutput(torch.randn(B, C), torch.randn(B, N, 2, H, W), torch.randn(B, N, S), None)


def targets() -> Targets:
    torch.manual_seed(1)
    scores = torch.log_softmax(torch.randn(B, N, S), dim=2).sort(dim=2, descending=True)
    return Targets(
        torch.tensor([3, 0]),
        torch.randint(0, 256, (B, N, H, W), dtype=torch.uint8),
        scores.indices[:, :, :T],
        scores.values[:, :, :T],
    )


def test_hard_labels_are_means_over_clips_segments_and_pixels() -> None:
    out, target = output(), targets()
    assert out.human is not None
    assert out.scene is not None
    assert target.human is not None
    assert target.scene_classes is not None
    action = -sum(out.action[b].log_softmax(0)[target.action[b]].item() for b in range(B)) / B
    scene = human = 0.0
    for b in range(B):
        for n in range(N):
            scene -= out.scene[b, n].log_softmax(0)[target.scene_classes[b, n, 0]].item() / (B * N)
            for y in range(H):
                for x in range(W):
                    person = int(target.human[b, n, y, x].item() / 255 > 0.5)
                    human -= out.human[b, n, :, y, x].log_softmax(0)[person].item() / (B * N * H * W)
    terms = joint_loss(out, target, LossConfig(action=1, human=0.01, scene=0.01))
    assert terms["action"].item() == pytest.approx(action, rel=1e-5)
    assert terms["human"].item() == pytest.approx(human, rel=1e-5)
    assert terms["scene"].item() == pytest.approx(scene, rel=1e-5)
    assert terms["total"].item() == pytest.approx(action + 0.01 * human + 0.01 * scene, rel=1e-5)


def test_the_paper_weights_are_the_default() -> None:
    config = LossConfig()
    assert (config.action, config.human, config.scene, config.soft_labels) == (1.0, 0.01, 0.01, False)


def test_soft_labels_follow_the_teachers_probabilities() -> None:
    out, target = output(), targets()
    assert out.human is not None
    assert out.scene is not None
    assert target.human is not None
    assert target.scene_classes is not None
    assert target.scene_scores is not None
    temperature = 2.0
    terms = joint_loss(out, target, LossConfig(soft_labels=True, temperature=temperature))
    scene = human = 0.0
    for b in range(B):
        for n in range(N):
            weights = [math.exp(score / temperature) for score in target.scene_scores[b, n].tolist()]
            student = (out.scene[b, n] / temperature).log_softmax(0)
            for weight, cls in zip(weights, target.scene_classes[b, n].tolist(), strict=True):
                scene -= weight / sum(weights) * student[cls].item() / (B * N)
            for y in range(H):
                for x in range(W):
                    p = min(max(target.human[b, n, y, x].item() / 255, 1e-3), 1 - 1e-3)
                    q = 1 / (1 + math.exp(-math.log(p / (1 - p)) / temperature))
                    background, person = (out.human[b, n, :, y, x] / temperature).log_softmax(0).tolist()
                    human -= ((1 - q) * background + q * person) / (B * N * H * W)
    assert terms["scene"].item() == pytest.approx(scene * temperature**2, rel=1e-4)
    assert terms["human"].item() == pytest.approx(human * temperature**2, rel=1e-4)


@pytest.mark.parametrize("missing", ["human", "scene"])
def test_a_term_needs_network_and_teacher(missing: str) -> None:
    without_head = output()._replace(**{missing: None})
    assert missing not in joint_loss(without_head, targets(), LossConfig())
    labels = {"human": None} if missing == "human" else {"scene_classes": None, "scene_scores": None}
    assert missing not in joint_loss(output(), targets()._replace(**labels), LossConfig())


def test_half_precision_outputs_are_summed_in_single() -> None:
    half = KINetOutput(*(x.bfloat16() if x is not None else None for x in output()))  # type: ignore[arg-type]
    assert joint_loss(half, targets(), LossConfig())["total"].dtype == torch.float32
