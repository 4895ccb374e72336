from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kinet.config import ModelConfig
from kinet.errors import InputError
from kinet.evaluation.protocol import (
    ViewBatch,
    Views,
    batch_scores,
    clip_scores,
    evaluate,
    parse_views,
    window_indices,
)
from kinet.models.kinet import build_kinet

CLASSES = ("run", "jump", "sit", "lie")


class Graph(nn.Module):
    """Not linear in a window's nodes, and not blind to their order."""

    def forward(self, nodes: Tensor) -> Tensor:
        segments = nodes.shape[1]
        weights = torch.linspace(0.5, 1.5, segments, dtype=nodes.dtype)[:, None, None]
        return ((nodes * weights).flatten(1, 2).tanh().cumsum(1) ** 2)[:, -segments:]


class FakeModel(nn.Module):
    """The interface of KINet in float64, with batch norm and dropout: repeatable in eval mode alone."""

    def __init__(self, *, graph: bool, segments: int = 3, branches: int = 3) -> None:
        super().__init__()
        self.segments = segments
        self.branches = branches
        self.backbone = nn.Sequential(nn.Conv2d(3, 5 * branches, 3, 2), nn.BatchNorm2d(5 * branches), nn.ReLU())
        self.graph = Graph() if graph else None
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(5, len(CLASSES))
        self.images = 0
        self.double()

    def nodes(self, frames: Tensor) -> Tensor:
        assert frames.dtype == torch.uint8
        self.images += len(frames)
        pooled: Tensor = self.backbone(frames.to(self.fc.weight.dtype) / 255).mean(dim=(2, 3))
        return pooled.unflatten(1, (self.branches, 5))

    def classify(self, nodes: Tensor) -> tuple[Tensor, Tensor | None]:
        action = nodes[:, :, 0] if self.graph is None else self.graph(nodes)
        return self.fc(self.dropout(action.mean(dim=1))), None

    def whole(self, clips: Tensor) -> Tensor:
        """(B, N, 3, H, W) -> (B, C), as in training."""
        nodes = self.nodes(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return self.classify(nodes)[0]


def random_frames(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (*shape, 3, 9, 11), dtype=torch.uint8, generator=torch.manual_seed(seed))


def naive_scores(model: FakeModel, frames: Tensor, window: int, stride: int = 1) -> Tensor:
    """One clip (S, crops, 3, H, W): each window of each crop through the whole network by itself."""
    scores = []
    for crop in range(frames.shape[1]):
        start = 0
        while start + window <= len(frames):
            scores.append(model.whole(frames[start : start + window, crop][None])[0])
            start += stride
    return torch.stack(scores).mean(dim=0)


# views


@pytest.mark.parametrize(
    ("text", "views"), [("25x10", Views(25, 10)), (" 1x1 ", Views(1, 1)), ("1000x5", Views(1000, 5))]
)
def test_views_are_read(text: str, views: Views) -> None:
    assert parse_views(text) == views
    assert parse_views(str(views)) == views


@pytest.mark.parametrize(
    "text",
    [
        "",
        "25",
        "x10",
        "25x",
        "25*10",
        "25x10x3",
        "-1x10",
        "0x1",
        "1001x1",
        "25x3",
        "25x0",
        "2.5x1",
        "²x1",
        "9999999999x1",
    ],
)
def test_wrong_views_are_one_line(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_views(text)
    assert repr(text) in str(error.value)
    assert "\n" not in str(error.value)


# windows


def test_the_papers_windows() -> None:
    windows = window_indices(25, 3)
    assert len(windows) == 23
    assert list(windows[0]) == [0, 1, 2]
    assert list(windows[-1]) == [22, 23, 24]


@pytest.mark.parametrize("segments", range(1, 9))
@pytest.mark.parametrize("window", range(1, 6))
@pytest.mark.parametrize("stride", range(1, 5))
def test_windows_are_all_that_fit(segments: int, window: int, stride: int) -> None:
    windows = window_indices(segments, window, stride)
    if segments <= window:
        assert windows == [range(segments)]
    else:
        every = [range(s, s + window) for s in range(segments) if s % stride == 0 and s + window <= segments]
        assert windows == every


def test_wrong_stride() -> None:
    with pytest.raises(InputError, match="stride 0"):
        window_indices(25, 3, 0)


# scores


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("batch_images", [1, 7, 1000])
def test_nodes_computed_once_give_the_scores_of_whole_windows(stride: int, batch_images: int) -> None:
    model = FakeModel(graph=True).eval()
    frames = random_frames(2, 7, 2)
    expected = torch.stack([naive_scores(model, clip, 3, stride) for clip in frames])
    model.images = 0
    scores = batch_scores(model, frames, stride=stride, batch_images=batch_images)
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-12)
    assert model.images == 2 * 7 * 2, "every image passes the network once"


@pytest.mark.parametrize("akg", ["dot", "none"])
def test_kinet_and_its_nodes_give_the_same_scores(akg: Literal["dot", "none"]) -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone="mobilenet_v2", weights="none", akg=akg, segments=2)
    model = build_kinet(config, classes=len(CLASSES), scene_classes=5)
    nn.init.normal_(model.classifier.weight)
    frames = torch.randint(0, 256, (4, 2, 3, 48, 48), dtype=torch.uint8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1  # one batch sets the statistics: without them random layers lose the signal
    with torch.no_grad():
        model.train()(frames)
    model.eval()
    starts = (0, 1, 2) if akg == "dot" else (0, 2)  # without graph every segment counts once
    with torch.no_grad():
        windows = [model(frames[start : start + 2].transpose(0, 1)).action for start in starts]
        scores = clip_scores(model, frames, batch_images=3)
    torch.testing.assert_close(scores, torch.cat(windows).mean(dim=0), rtol=1e-4, atol=1e-5)
    assert (windows[0] - windows[-1]).abs().max() > 1e-3, "frames differ enough to tell"


def test_the_test_can_tell_windows_from_their_mean() -> None:
    model = FakeModel(graph=True).eval()
    frames = random_frames(7, 2)
    whole_clip = naive_scores(model, frames, 7)
    assert (clip_scores(model, frames) - whole_clip).abs().max() > 1e-3


def test_without_graph_scores_are_the_plain_mean_over_segments_and_crops() -> None:
    model = FakeModel(graph=False, branches=1).eval()
    frames = random_frames(7, 2)
    per_image = torch.stack([model.whole(image[None, None])[0] for image in frames.flatten(0, 1)])
    torch.testing.assert_close(clip_scores(model, frames), per_image.mean(dim=0), rtol=1e-10, atol=1e-12)


def test_a_clip_shorter_than_a_window_is_one_window() -> None:
    model = FakeModel(graph=True, segments=5).eval()
    frames = random_frames(3, 1)
    torch.testing.assert_close(clip_scores(model, frames), model.whole(frames[:, 0][None])[0])


def test_under_autocast_images_are_low_precision_and_scores_are_not() -> None:
    model = FakeModel(graph=False).float().eval()
    frames = random_frames(64, 1, 1)  # 64 clips of one view: nothing is averaged that could hide rounding
    exact = batch_scores(model, frames)
    seen: list[torch.dtype] = []
    model.backbone.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        scores = batch_scores(model, frames)
    assert seen == [torch.bfloat16]
    assert scores.dtype == torch.float32
    assert (scores.bfloat16().float() != scores).float().mean() > 0.9
    torch.testing.assert_close(scores, exact, rtol=0.05, atol=0.01)


def test_low_precision_scores_are_averaged_in_float32() -> None:
    model = FakeModel(graph=True).eval()
    model.classify = lambda nodes: (nodes[:, 0, 0].bfloat16(), None)  # type: ignore[method-assign]
    assert batch_scores(model, random_frames(1, 4, 1)).dtype == torch.float32


# evaluate


def batches() -> Iterator[ViewBatch]:
    yield ViewBatch(random_frames(2, 4, 2), torch.tensor([1, 3]), ["a", "b"], [])
    yield ViewBatch(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), [], [("c", "no frames")])
    yield ViewBatch(random_frames(1, 4, 2, seed=1), torch.tensor([0]), ["d"], [("e", "damaged")])


def test_evaluate_gathers_clips_in_order_and_lists_the_skipped() -> None:
    model = FakeModel(graph=True)
    steps: list[int] = []
    scores, skipped = evaluate(model, batches(), classes=CLASSES, progress=steps.append)
    assert scores.names == ("a", "b", "d")
    assert scores.labels.tolist() == [1, 3, 0]
    assert (scores.classes, scores.views) == (CLASSES, "4x2")
    assert skipped == [("c", "no frames"), ("e", "damaged")]
    assert steps == [2, 1, 2]
    model.eval()
    expected = torch.cat(
        [batch_scores(model, random_frames(2, 4, 2)), batch_scores(model, random_frames(1, 4, 2, seed=1))]
    )
    np.testing.assert_allclose(scores.scores, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_every_modules_mode_comes_back_also_after_an_error() -> None:
    model = FakeModel(graph=True).train()
    model.backbone[1].eval()  # a frozen batch norm
    statistics = model.backbone[1].running_mean.clone()

    def fails() -> Iterator[ViewBatch]:
        yield next(batches())
        assert not model.training
        assert not torch.is_grad_enabled()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        evaluate(model, fails(), classes=CLASSES)
    assert model.training
    assert model.dropout.training
    assert not model.backbone[1].training
    assert torch.equal(model.backbone[1].running_mean, statistics)


def test_autocast_is_around_the_forward_pass() -> None:
    model = FakeModel(graph=True)
    entered = []

    @contextmanager
    def autocast() -> Iterator[None]:
        before = model.images
        yield
        entered.append(model.images - before)

    evaluate(model, batches(), classes=CLASSES, autocast=autocast)
    assert entered == [16, 8]


def test_scores_that_are_not_finite_name_their_clip() -> None:
    model = FakeModel(graph=True)
    frames = random_frames(2, 4, 2)
    usual = model.nodes
    model.nodes = lambda images: (
        usual(images) * torch.where(images.amax(dim=(1, 2, 3)) == 0, torch.nan, 1.0)[:, None, None]
    )
    frames[1, 2] = 0
    model.classify = lambda nodes: (nodes[:, :, 0].mean(dim=1)[:, :4], None)
    batch = ViewBatch(frames, torch.tensor([1, 3]), ["good", "bad"], [])
    with pytest.raises(InputError, match="clip bad are not finite"):
        evaluate(model, [batch], classes=CLASSES)


def test_no_readable_clip_is_an_error_that_names_the_first() -> None:
    batch = ViewBatch(torch.empty(0), torch.empty(0), [], [("c", "no frames"), ("d", "damaged")])
    with pytest.raises(InputError, match="no clip could be read of 2; the first, c: no frames"):
        evaluate(FakeModel(graph=True), [batch], classes=CLASSES)
    with pytest.raises(InputError, match="no clip"):
        evaluate(FakeModel(graph=True), [], classes=CLASSES)


def test_a_model_of_other_classes_is_an_error() -> None:
    with pytest.raises(InputError, match="3 classes"):
        evaluate(FakeModel(graph=True), batches(), classes=CLASSES[:3])
