"""Clips as the network takes them: sampled, cropped, with their pseudo labels, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kinet.config import DataConfig
from kinet.data.clip import FrameSource, UnreadableClip
from kinet.data.manifest import Clip, Manifest
from kinet.data.sampling import test_indices, train_indices
from kinet.data.transforms import crop_frames, crop_masks, multi_scale_crop, stack_frames, view_crops
from kinet.data.video import open_clip
from kinet.evaluation.protocol import ViewBatch, Views
from kinet.models.human_decoder import mask_side
from kinet.teachers.teacher import LabelSource
from kinet.training.criterion import Targets

OpenSource = Callable[[Clip], FrameSource]
"""Opens a clip, be it its own file or in a pack. Raises UnreadableClip."""


def open_original(clip: Clip) -> FrameSource:
    """The clip's own file, or folder of images."""
    return open_clip(clip.path)


class SampleKey(NamedTuple):
    """What the sampler asks of the dataset: the clip, and the epoch that seeds its augmentation."""

    epoch: int
    clip: int


class Skipped(NamedTuple):
    """A clip that could not be read, and why."""

    name: str
    cause: str


@dataclass(frozen=True)
class TrainSample:
    """One clip: frames (N, 3, S, S) uint8, its class, and its pseudo labels as in ``Targets``, without B."""

    frames: Tensor
    label: int
    human: Tensor | None
    scene_classes: Tensor | None
    scene_scores: Tensor | None


@dataclass(frozen=True)
class TrainBatch:
    """Clips (B, N, 3, S, S) uint8 and their targets; both None if no clip of the batch could be read."""

    clips: Tensor | None
    targets: Targets | None
    skipped: list[Skipped]

    def __len__(self) -> int:
        return 0 if self.clips is None else len(self.clips)


class TrainDataset(Dataset["TrainSample | Skipped"]):
    """Random frames, crops and flips of the clips of a manifest.

    A sample depends on (seed, epoch, clip) alone, so that neither the number of workers nor an interruption
    changes it. A clip that can't be decoded comes back as ``Skipped``.

    Args:
        labels: gives the pseudo labels of the sampled frames; None for TSN.
        open_source: where the clips' frames come from.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: DataConfig,
        segments: int,
        labels: LabelSource | None,
        seed: int,
        open_source: OpenSource = open_original,
    ) -> None:
        self.manifest = manifest
        self.config = config
        self.segments = segments
        self.labels = labels
        self.seed = seed
        self.open_source = open_source

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: SampleKey) -> TrainSample | Skipped:
        clip = self.manifest[key.clip]
        rng = np.random.default_rng((self.seed, key.epoch, key.clip))
        try:
            source = self.open_source(clip)
            indices = train_indices(len(source), self.segments, rng)
            frames = source.read(indices)
            return self.augment(clip, indices, frames, rng)
        except UnreadableClip as error:
            return Skipped(clip.name, error.cause)

    def augment(self, clip: Clip, indices: np.ndarray, frames: np.ndarray, rng: np.random.Generator) -> TrainSample:
        """Cut one window from all frames of the clip, and the same window from their masks."""
        size, side = self.config.frame_size, self.config.input_size
        crop = multi_scale_crop(size, side, rng, scales=self.config.scales, flip=self.config.flip)
        human = scene_classes = scene_scores = None
        if self.labels is not None:
            labels = self.labels.labels(clip, indices, frames)
            if labels.human is not None:
                human = crop_masks(torch.from_numpy(labels.human), crop, size, mask_side(side))
            if labels.scene_classes is not None and labels.scene_scores is not None:
                scene_classes = torch.from_numpy(labels.scene_classes).long()
                scene_scores = torch.from_numpy(labels.scene_scores).float()
        return TrainSample(crop_frames(frames, crop, size, side), clip.label, human, scene_classes, scene_scores)


def collate_train(samples: Sequence[TrainSample | Skipped]) -> TrainBatch:
    """Stack the readable samples."""
    skipped = [sample for sample in samples if isinstance(sample, Skipped)]
    read = [sample for sample in samples if isinstance(sample, TrainSample)]
    if not read:
        return TrainBatch(None, None, skipped)
    targets = Targets(
        torch.tensor([sample.label for sample in read]),
        stack([sample.human for sample in read]),
        stack([sample.scene_classes for sample in read]),
        stack([sample.scene_scores for sample in read]),
    )
    return TrainBatch(stack_frames([sample.frames for sample in read]), targets, skipped)


def stack(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if present else None


@dataclass(frozen=True)
class ViewSample:
    """All views of one clip: frames (segments, crops, 3, S, S) uint8."""

    frames: Tensor
    label: int
    name: str


class ViewDataset(Dataset["ViewSample | Skipped"]):
    """The views of each clip of a manifest that the test protocol asks for."""

    def __init__(
        self, manifest: Manifest, config: DataConfig, views: Views, open_source: OpenSource = open_original
    ) -> None:
        self.manifest = manifest
        self.config = config
        self.segments = views.segments
        self.open_source = open_source
        self.input_size = config.test_input_size or config.input_size
        self.crops = view_crops(config.frame_size, self.input_size, views.crops)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> ViewSample | Skipped:
        clip = self.manifest[index]
        try:
            source = self.open_source(clip)
            frames = source.read(test_indices(len(source), self.segments))
        except UnreadableClip as error:
            return Skipped(clip.name, error.cause)
        crops = [crop_frames(frames, crop, self.config.frame_size, self.input_size) for crop in self.crops]
        return ViewSample(stack_frames(crops, dim=1), clip.label, clip.name)


def collate_views(samples: Sequence[ViewSample | Skipped]) -> ViewBatch:
    """Stack the readable clips."""
    read = [sample for sample in samples if isinstance(sample, ViewSample)]
    return ViewBatch(
        frames=stack_frames([sample.frames for sample in read]) if read else torch.empty(0),
        labels=torch.tensor([sample.label for sample in read], dtype=torch.int64),
        names=[sample.name for sample in read],
        skipped=[sample for sample in samples if isinstance(sample, Skipped)],
    )


class EpochSampler(Sampler[SampleKey]):
    """A random order of the clips for each epoch, the same for a seed, dealt out over ranks.

    The ranks take turns, so that the clips that all of them have done are the first ``start`` of the order: those are
    left out, and that is how an interrupted epoch goes on, with other batches or ranks too. The last batch may be
    smaller; every rank gets the same number of clips, the order's first ones serving twice where they must. Iterating
    holds 16 bytes a clip for a moment, then 8; loading processes hold nothing of it.
    """

    def __init__(self, clips: int, batch_size: int, seed: int, *, rank: int = 0, ranks: int = 1) -> None:
        self.clips = clips
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.epoch = 0
        self.start = 0

    def set_position(self, epoch: int, start: int) -> None:
        """Choose the epoch, from 0, and how many clips of its order are left out."""
        self.epoch = epoch
        self.start = start

    @property
    def batches(self) -> int:
        """Batches of a whole epoch, on each rank."""
        per_rank = -(-self.clips // self.ranks)
        return -(-per_rank // self.batch_size)

    def __len__(self) -> int:
        """Clips from ``start`` on, on each rank."""
        return max(0, -(-(self.clips - self.start) // self.ranks))

    def __iter__(self) -> Iterator[SampleKey]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.clips)
        dealt = np.resize(np.roll(order, -self.start), len(self) * self.ranks)
        for index in dealt[self.rank :: self.ranks]:
            yield SampleKey(self.epoch, int(index))
