"""Samples: decided by (seed, epoch, clip) alone, labels in the frames' window, bad clips passed on as such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader

from kinet.config import DataConfig
from kinet.data.dataset import (
    EpochSampler,
    SampleKey,
    Skipped,
    TrainBatch,
    TrainDataset,
    TrainSample,
    ViewDataset,
    ViewSample,
    collate_train,
    collate_views,
)
from kinet.data.manifest import Manifest, read_manifest
from kinet.evaluation.protocol import Views

ToySet = Any  # tests/conftest.py's, which tests cannot import


@pytest.fixture(scope="module")
def data(toy: ToySet) -> DataConfig:
    config: DataConfig = toy.tsn(toy.folder).data
    return config


@pytest.fixture(scope="module")
def clips(toy: ToySet) -> Manifest:
    return read_manifest(toy.train)


def images(folder: Path) -> np.ndarray:
    """All frames of a toy clip, read without kinet: (T, 64, 80, 3)."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def tensors(sample: TrainSample | Skipped) -> list[torch.Tensor]:
    assert isinstance(sample, TrainSample)
    assert sample.human is not None
    assert sample.scene_classes is not None
    assert sample.scene_scores is not None
    return [sample.frames, torch.tensor(sample.label), sample.human, sample.scene_classes, sample.scene_scores]


def same(first: TrainSample | Skipped, second: TrainSample | Skipped) -> bool:
    return all(a.equal(b) for a, b in zip(tensors(first), tensors(second), strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_sample_depends_on_seed_epoch_and_clip_alone(
    toy: ToySet, clips: Manifest, data: DataConfig, workers: int
) -> None:
    keys = [SampleKey(epoch, clip) for epoch in (0, 1) for clip in range(len(clips))]
    alone = {key: TrainDataset(clips, data, 3, toy.labelling.source, seed=5)[key] for key in keys}
    backwards = keys[::-1]
    loader: DataLoader[Any] = DataLoader(
        TrainDataset(clips, data, 3, toy.labelling.source, seed=5),
        batch_size=None,
        sampler=backwards,  # type: ignore[arg-type]
        num_workers=workers,
    )
    for key, sample in zip(backwards, loader, strict=True):
        assert same(sample, alone[key]), key


def test_seed_and_epoch_change_the_sample(toy: ToySet, clips: Manifest, data: DataConfig) -> None:
    def samples(seed: int, epoch: int) -> list[TrainSample | Skipped]:
        dataset = TrainDataset(clips, data, 3, toy.labelling.source, seed)
        return [dataset[SampleKey(epoch, clip)] for clip in range(len(clips))]

    first = samples(0, 0)
    for other in (samples(1, 0), samples(0, 1)):
        assert sum(same(a, b) for a, b in zip(first, other, strict=True)) <= 2


def test_frames_are_one_window_of_one_frame_a_segment(clips: Manifest, data: DataConfig) -> None:
    dataset = TrainDataset(clips, replace(data, scales=[1.0], flip=False), 3, None, seed=0)
    lefts = set()
    for clip in range(len(clips)):
        sample = dataset[SampleKey(0, clip)]
        assert isinstance(sample, TrainSample)
        assert sample.label == clips[clip].label
        assert sample.frames.dtype == torch.uint8
        all_frames = images(clips[clip].path)  # six frames: segment i is frames 2i and 2i + 1
        found = []
        for segment, frame in enumerate(sample.frames.permute(0, 2, 3, 1).numpy()):
            found.append(
                {
                    left
                    for left in range(17)
                    for index in (2 * segment, 2 * segment + 1)
                    if np.array_equal(frame, all_frames[index, :, left : left + 64])
                }
            )
        (left,) = set.intersection(*found)
        lefts.add(left)
    assert len(lefts) > 2


def test_masks_are_cut_by_the_frames_window(toy: ToySet, clips: Manifest, data: DataConfig) -> None:
    """The masks were painted into the frames as white, so the cut masks can be read from the cut frames."""
    dataset = TrainDataset(clips, replace(data, scales=[1.0, 0.75, 0.5]), 3, toy.labelling.source, seed=0)
    aligned, mirrored = [], []
    for clip in range(len(clips)):
        frames, _, human, *_ = tensors(dataset[SampleKey(0, clip)])
        assert human.shape == (3, 8, 8)
        assert human.dtype == torch.uint8
        white = (frames.amin(dim=1) > 200).float()
        seen = functional.avg_pool2d(white[:, None], 8)[:, 0]
        aligned.append((human / 255 - seen).abs().mean().item())
        mirrored.append((human.flip(2) / 255 - seen).abs().mean().item())
    assert max(aligned) < 0.06
    assert np.mean(mirrored) > 0.15  # the measure does see a mask that was not flipped along


def test_scene_labels_are_those_of_the_sampled_frames(toy: ToySet, clips: Manifest, data: DataConfig) -> None:
    dataset = TrainDataset(clips, data, 3, toy.labelling.source, seed=0)
    for clip in range(len(clips)):
        _, label, _, classes, scores = tensors(dataset[SampleKey(0, clip)])
        assert classes.shape == scores.shape == (3, 3)
        assert (classes[:, 0] == label).all()
        assert scores.dtype == torch.float32
        assert (scores[:, 0] > scores[:, 1]).all()


@pytest.mark.parametrize("segments", [7, 13])
def test_a_clip_shorter_than_the_segments_repeats_frames(clips: Manifest, data: DataConfig, segments: int) -> None:
    sample = TrainDataset(clips, data, segments, None, seed=0)[SampleKey(0, 0)]
    assert isinstance(sample, TrainSample)
    assert sample.frames.shape == (segments, 3, 64, 64)
    assert len(sample.frames.unique(dim=0)) == 6
    views = ViewDataset(clips, data, Views(segments, 1))[0]
    assert isinstance(views, ViewSample)
    assert len(views.frames.unique(dim=0)) == 6


@pytest.fixture
def mixed(toy: ToySet, tmp_path: Path, sound_only: Path) -> Manifest:
    """Two good clips, then a missing one, an empty file, an empty folder and sound without a picture."""
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "hollow").mkdir()
    bad = [tmp_path / "missing.mp4", tmp_path / "empty.mp4", tmp_path / "hollow", sound_only]
    return read_manifest(toy.manifest(tmp_path / "mixed.csv", *((path, "diving") for path in bad), clips=2))


CAUSES = ["missing", "file is empty", "no images in the folder", "no video stream"]


def test_unreadable_clips_come_back_with_name_and_cause(mixed: Manifest, data: DataConfig) -> None:
    train = TrainDataset(mixed, data, 3, None, seed=0)
    views = ViewDataset(mixed, data, Views(2, 1))
    expected = [Skipped(mixed[2 + number].name, cause) for number, cause in enumerate(CAUSES)]
    assert [train[SampleKey(0, clip)] for clip in range(2, 6)] == expected
    assert [views[clip] for clip in range(2, 6)] == expected


def test_collate_train_keeps_the_readable_clips(toy: ToySet, mixed: Manifest, data: DataConfig) -> None:
    dataset = TrainDataset(mixed, data, 3, toy.labelling.source, seed=0)
    samples = [dataset[SampleKey(0, clip)] for clip in (2, 0, 3, 1)]
    batch = collate_train(samples)
    assert batch.clips is not None
    assert batch.targets is not None
    assert [name.cause for name in batch.skipped] == CAUSES[:2]
    assert batch.clips.shape == (2, 3, 3, 64, 64)
    for row, sample in enumerate((samples[1], samples[3])):
        frames, label, human, classes, scores = tensors(sample)
        assert batch.clips[row].equal(frames)
        assert batch.targets.action[row] == label
        assert batch.targets.human is not None
        assert batch.targets.human[row].equal(human)
        assert batch.targets.scene_classes is not None
        assert batch.targets.scene_classes[row].equal(classes)
        assert batch.targets.scene_scores is not None
        assert batch.targets.scene_scores[row].equal(scores)


def test_collate_train_without_labels_or_without_readable_clips(mixed: Manifest, data: DataConfig) -> None:
    dataset = TrainDataset(mixed, data, 3, None, seed=0)
    batch = collate_train([dataset[SampleKey(0, 0)]])
    assert batch.targets is not None
    assert batch.targets[1:] == (None, None, None)
    unreadable: list[TrainSample | Skipped] = [Skipped("a", "missing"), Skipped("b", "file is empty")]
    assert collate_train(unreadable) == TrainBatch(None, None, unreadable)  # type: ignore[arg-type]


def test_views_are_the_segments_centres_cut_from_the_whole_frame(clips: Manifest, data: DataConfig) -> None:
    for index in (0, 7):
        sample = ViewDataset(clips, data, Views(3, 2))[index]
        assert isinstance(sample, ViewSample)
        assert (sample.name, sample.label) == (clips[index].name, clips[index].label)
        centre = images(clips[index].path)[[1, 3, 5], :, 8:72]
        np.testing.assert_array_equal(sample.frames[:, 0].permute(0, 2, 3, 1).numpy(), centre)
        np.testing.assert_array_equal(sample.frames[:, 1].permute(0, 2, 3, 1).numpy(), centre[:, :, ::-1])


def test_collate_views(mixed: Manifest, data: DataConfig) -> None:
    dataset = ViewDataset(mixed, data, Views(2, 5))
    batch = collate_views([dataset[index] for index in (3, 0, 1)])
    assert batch.frames.shape == (2, 2, 5, 3, 64, 64)
    assert batch.labels.tolist() == [mixed[0].label, mixed[1].label]
    assert batch.names == [mixed[0].name, mixed[1].name]
    assert batch.skipped == [(mixed[3].name, "file is empty")]
    nothing = collate_views([dataset[3]])
    assert (len(nothing.frames), len(nothing.labels), nothing.names) == (0, 0, [])


CLIPS = st.integers(1, 40)
BATCH = st.integers(1, 9)


def clips_of(sampler: EpochSampler, epoch: int, start: int = 0) -> list[int]:
    sampler.set_position(epoch, start)
    keys = list(sampler)
    assert {key.epoch for key in keys} <= {epoch}
    assert len(sampler) == len(keys)
    return [key.clip for key in keys]


@given(CLIPS, BATCH, st.integers(0, 2**32), st.integers(0, 100))
def test_an_epoch_is_a_permutation(clips: int, batch: int, seed: int, epoch: int) -> None:
    sampler = EpochSampler(clips, batch, seed)
    order = clips_of(sampler, epoch)
    assert sorted(order) == list(range(clips))
    assert order == clips_of(EpochSampler(clips, batch, seed), epoch)
    assert sampler.batches == len(batches(order, batch))


def batches(order: Sequence[int], size: int) -> list[Sequence[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def test_orders_differ_by_epoch_and_seed() -> None:
    orders = [clips_of(EpochSampler(30, 4, seed), epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 6


@given(CLIPS, BATCH, st.integers(1, 5), st.data())
def test_a_later_start_leaves_the_first_batches_out(clips: int, batch: int, ranks: int, draw: st.DataObject) -> None:
    sampler = EpochSampler(clips, batch, 3, rank=draw.draw(st.integers(0, ranks - 1)), ranks=ranks)
    whole = clips_of(sampler, 2)
    start = draw.draw(st.integers(0, sampler.batches - 1))
    assert batches(clips_of(sampler, 2, start * batch * ranks), batch) == batches(whole, batch)[start:]


@given(CLIPS, BATCH, BATCH, st.integers(1, 5), st.integers(1, 5), st.data())
def test_an_epoch_goes_on_with_other_batches_and_ranks(
    clips: int, batch: int, later_batch: int, ranks: int, later_ranks: int, draw: st.DataObject
) -> None:
    """Together they see every clip, and none of the first part again but what fills the last step up."""
    steps = draw.draw(st.integers(0, EpochSampler(clips, batch, 3, ranks=ranks).batches))
    first, later = (
        [EpochSampler(clips, size, 3, rank=rank, ranks=count) for rank in range(count)]
        for size, count in ((batch, ranks), (later_batch, later_ranks))
    )
    done = [clip for sampler in first for clip in clips_of(sampler, 2)[: steps * batch]]
    rest = [clip for sampler in later for clip in clips_of(sampler, 2, steps * batch * ranks)]
    assert set(done) | set(rest) == set(range(clips))
    if len(done) < clips:
        assert len(done) + len(rest) - clips < later_ranks


@given(CLIPS, BATCH, st.integers(1, 5), st.integers(0, 9))
def test_ranks_share_the_clips(clips: int, batch: int, ranks: int, epoch: int) -> None:
    samplers = [EpochSampler(clips, batch, 7, rank=rank, ranks=ranks) for rank in range(ranks)]
    dealt = [clips_of(sampler, epoch) for sampler in samplers]
    assert len({len(part) for part in dealt}) == 1  # every rank takes the same number of steps
    together = [clip for part in dealt for clip in part]
    times = np.bincount(together, minlength=clips)
    assert len(times) == clips
    assert times.min() >= 1
    assert len(together) - clips < ranks  # no more repeated than the division needs
    assert len({sampler.batches for sampler in samplers}) == 1
