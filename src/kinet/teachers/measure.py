"""How good a teacher is on images whose masks or scenes are known."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from kinet.data.dataset import Skipped
from kinet.data.parsing_set import IGNORE, Batch
from kinet.models.pspnet import PSPNet
from kinet.teachers.teacher_checkpoint import SceneNet


class Autocast(Protocol):
    def __call__(self) -> AbstractContextManager[None]: ...


@torch.inference_mode()
def parsing_scores(
    network: PSPNet, batches: Iterable[Batch], classes: int, autocast: Autocast
) -> tuple[dict[str, float], list[Skipped]]:
    """Mean IoU over classes and pixel accuracy, in per cent, of the masks at their full resolution."""
    network.eval()
    device = network.mean.device
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    skipped: list[Skipped] = []
    for batch in batches:
        skipped += batch.skipped
        if batch.images is None or batch.targets is None:
            continue
        with autocast():
            logits = network(batch.images.to(device)).parts.float()
        size = (batch.images.shape[2], batch.images.shape[3])
        enlarged = functional.interpolate(logits, size=size, mode="bilinear")
        whole = functional.interpolate(enlarged, size=batch.targets.shape[1:], mode="bilinear")
        confusion += count(whole.argmax(1).cpu(), batch.targets, classes)
    return {"val_mean_iou": 100 * mean_iou(confusion), "val_pixel_accuracy": 100 * pixel_accuracy(confusion)}, skipped


@torch.inference_mode()
def scene_scores(
    network: SceneNet, batches: Iterable[Batch], autocast: Autocast
) -> tuple[dict[str, float], list[Skipped]]:
    """Top-1 and top-5 accuracy in per cent."""
    network.eval()
    device = network.mean.device
    skipped: list[Skipped] = []
    images = first = fifth = 0
    for batch in batches:
        skipped += batch.skipped
        if batch.images is None or batch.targets is None:
            continue
        with autocast():
            scores = network(batch.images.to(device)).float().cpu()
        best = scores.topk(min(5, scores.shape[1])).indices == batch.targets[:, None]
        images += len(best)
        first += int(best[:, 0].sum())
        fifth += int(best.any(1).sum())
    return {"val_top1": 100 * first / max(1, images), "val_top5": 100 * fifth / max(1, images)}, skipped


def count(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels by (true class, predicted class), (classes, classes) int64; those of ``IGNORE`` are left out."""
    counted = truth != IGNORE
    pairs = truth[counted].long() * classes + predicted[counted].long()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def mean_iou(confusion: Tensor) -> float:
    """Intersection over union, averaged over the classes that are in truth or prediction; 0 where there are none."""
    right = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - right
    there = union > 0
    return float((right[there] / union[there]).mean()) if there.any() else 0.0


def pixel_accuracy(confusion: Tensor) -> float:
    return float(confusion.diagonal().sum() / confusion.sum().clamp(min=1))
