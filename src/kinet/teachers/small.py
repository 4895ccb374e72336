"""Small teachers that learn in seconds, for the generated set, where masks and scenes are known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinet.teachers.teacher import (
    BEST_SCENES,
    LABEL_FORMAT,
    Frames,
    Masks,
    SceneClasses,
    SceneScores,
    Task,
    best_scenes,
    check_frames,
    masks_from_probabilities,
)

INPUT_SIZE = (64, 88)
"""Height and width that frames are stretched to."""
BATCH = 32


def block(channels_in: int, channels_out: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, dilation, dilation, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class SmallParser(nn.Module):
    """Person logits (B, 1, H/2, W/2) of images (B, 3, H, W) in [-1, 1]: a U-shaped network of 0.15M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.down_half = block(3, 16, stride=2)
        self.down_quarter = block(16, 32, stride=2)
        self.down_eighth = nn.Sequential(block(32, 64, stride=2), block(64, 64, dilation=2), block(64, 64))
        self.up_quarter = block(64 + 32, 32)
        self.up_half = block(32 + 16, 16)
        self.classify = nn.Conv2d(16, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        half = self.down_half(images)
        quarter = self.down_quarter(half)
        x = F.interpolate(self.down_eighth(quarter), size=quarter.shape[2:], mode="bilinear")
        x = F.interpolate(self.up_quarter(torch.cat([x, quarter], dim=1)), size=half.shape[2:], mode="bilinear")
        logits: Tensor = self.classify(self.up_half(torch.cat([x, half], dim=1)))
        return logits


class SmallSceneNet(nn.Module):
    """Scene scores (B, S) of images (B, 3, H, W) in [-1, 1]."""

    def __init__(self, scenes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(block(3, 16, stride=2), block(16, 32, stride=2), block(32, 64, stride=2))
        self.classify = nn.Linear(64, scenes)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.classify(self.trunk(images).mean(dim=(2, 3)))
        return scores


class ModuleTeacher:
    """A ``Teacher`` from a small network in memory.

    Args:
        network: ``SmallParser`` or ``SmallSceneNet``, trained; it is put into eval mode.
        class_names: one a class, in order.
    """

    def __init__(self, task: Task, network: nn.Module, class_names: tuple[str, ...]) -> None:
        self.task: Task = task
        self.name = type(network).__name__
        self.network = network.eval()
        self.class_names = class_names
        self.classes = len(class_names)
        digest = hashlib.sha256(f"{self.name} {INPUT_SIZE} {LABEL_FORMAT}".encode())
        for tensor in network.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    def label_frames(self, frames: Frames) -> Masks | tuple[SceneClasses, SceneScores]:
        """See ``Teacher.label_frames``. Frames go through one by one, so that a label depends on its frame alone."""
        check_frames(frames)
        with torch.inference_mode():
            outputs = [self.network(prepare(frame[None])) for frame in frames]
        output = torch.cat(outputs)
        if self.task == "human":
            return masks_from_probabilities(output[:, 0].sigmoid().numpy())
        return best_scenes(output.log_softmax(dim=1).numpy(), BEST_SCENES)


def prepare(frames: npt.NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, *INPUT_SIZE) float in [-1, 1]."""
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return F.interpolate(images, size=INPUT_SIZE, mode="bilinear", antialias=True).float() / 127.5 - 1


def train_parser(
    images: Frames, masks: npt.NDArray[np.bool_], *, epochs: int, seed: int, report: Callable[[str], None]
) -> SmallParser:
    """Learn person masks (N, H, W) of images (N, H, W, 3)."""
    torch.manual_seed(seed)
    network = SmallParser()
    size = (INPUT_SIZE[0] // 2, INPUT_SIZE[1] // 2)
    targets = F.adaptive_avg_pool2d(torch.from_numpy(masks)[:, None].float(), size)
    fit(network, prepare(images), targets, F.binary_cross_entropy_with_logits, epochs, report)
    return network


def train_scene_net(
    images: Frames,
    scenes: npt.NDArray[np.int64],
    classes: int,
    *,
    epochs: int,
    seed: int,
    report: Callable[[str], None],
) -> SmallSceneNet:
    """Learn the scenes (N,) of images (N, H, W, 3)."""
    torch.manual_seed(seed)
    network = SmallSceneNet(classes)
    fit(network, prepare(images), torch.from_numpy(scenes), F.cross_entropy, epochs, report)
    return network


def fit(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    epochs: int,
    report: Callable[[str], None],
) -> None:
    """Train with AdamW on a one-cycle schedule, mirroring half of the images (and of masks)."""
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=max(1, steps))
    network.train()
    for epoch in range(epochs):
        total = 0.0
        for indices in torch.split(torch.randperm(len(images)), BATCH)[: len(images) // BATCH]:
            batch, target = images[indices], targets[indices]
            if torch.rand(()) < 0.5:
                batch = batch.flip(3)
                target = target.flip(3) if target.ndim == 4 else target
            loss = loss_of(network(batch), target)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.item()
        report(f"{type(network).__name__} epoch {epoch + 1}/{epochs}  loss {total / max(1, len(images) // BATCH):.3f}")
    network.eval()


def mean_iou(teacher: ModuleTeacher, images: Frames, masks: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of background and person, their mean, in per cent, at the labels' resolution."""
    labels = teacher.label_frames(images)
    assert isinstance(labels, np.ndarray)
    predicted = labels > 127
    truth = F.interpolate(torch.from_numpy(masks)[:, None].float(), size=predicted.shape[1:], mode="area") > 0.5
    true = truth[:, 0].numpy()
    person = (predicted & true).sum() / max(1, (predicted | true).sum())
    background = (~predicted & ~true).sum() / max(1, (~predicted | ~true).sum())
    return float(50 * (person + background))


def scene_accuracy(teacher: ModuleTeacher, images: Frames, scenes: npt.NDArray[np.int64]) -> float:
    """Images whose best scene is right, in per cent."""
    labels = teacher.label_frames(images)
    assert isinstance(labels, tuple)
    return float(100 * (labels[0][:, 0] == scenes).mean())
