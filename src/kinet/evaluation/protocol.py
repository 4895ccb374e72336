"""The paper's test (section 4.2): many views of a clip, sliding windows of N_seg, scores averaged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kinet.errors import InputError
from kinet.evaluation.scores import ScoreFile

CROPS = (1, 2, 5, 10)
MOST_SEGMENTS = 1000


@dataclass(frozen=True, slots=True)
class Views:
    """``segments`` frames of a clip, ``crops`` crops of each."""

    segments: int
    crops: int

    def __str__(self) -> str:
        return f"{self.segments}x{self.crops}"


def parse_views(text: str) -> Views:
    """``25x10`` is 25 segments of 10 crops (the paper's test).

    Crops: 1 the centre, 2 with its flip, 5 the corners and the centre, 10 with their flips.
    Raises ``InputError``.
    """
    parts = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text.strip())
    if parts is None:
        raise InputError(f"views {text!r}: write SEGMENTSxCROPS, for example 25x10")
    views = Views(int(parts[1]), int(parts[2]))
    if not 1 <= views.segments <= MOST_SEGMENTS:
        raise InputError(f"views {text!r}: {views.segments} segments; choose 1 to {MOST_SEGMENTS}")
    if views.crops not in CROPS:
        raise InputError(f"views {text!r}: {views.crops} crops; choose 1, 2, 5 or 10")
    return views


@dataclass(frozen=True, slots=True, eq=False)
class ViewBatch:
    """B clips as a test sees them; clips that could not be read are in ``skipped`` only."""

    frames: Tensor
    """(B, S, crops, 3, H, W) uint8; B is 0 where no clip of the batch could be read."""
    labels: Tensor
    """(B,) int64."""
    names: list[str]
    """(B,) the clips' names in the manifest."""
    skipped: list[tuple[str, str]]
    """Name and cause of every clip that could not be read."""


@dataclass
class ScoredClips:
    """The clips of one process's share, in its batches."""

    names: list[str] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    """Of each batch (B, C) float32."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    views: str = ""


class VideoModel(Protocol):
    """What the test needs of a network; ``kinet.models.kinet.KINet`` is one."""

    @property
    def segments(self) -> int:
        """N_seg, the frames of a window."""

    @property
    def graph(self) -> nn.Module | None:
        """The AKG; ``None`` where a clip's scores are the plain mean of its frames', as in TSN."""

    def nodes(self, frames: Tensor) -> Tensor:
        """(M, 3, H, W) uint8 -> (M, K, d): pooled features of K branches."""

    def classify(self, nodes: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, N, K, d) -> scores (B, C) and edges."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def eval(self) -> object: ...


def window_indices(segments: int, window: int, stride: int = 1) -> list[range]:
    """Sliding windows of ``window`` of the ``segments``, each ``stride`` after the one before.

    25 segments and a window of 3 give 23 windows. With fewer segments than a window, all of them are the one
    window. With a stride above 1, segments behind the last whole window are in none.
    """
    if stride < 1:
        raise InputError(f"window stride {stride}: choose 1 or more")
    if segments <= window:
        return [range(segments)]
    return [range(start, start + window) for start in range(0, segments - window + 1, stride)]


def batch_scores(model: VideoModel, frames: Tensor, *, stride: int = 1, batch_images: int = 64) -> Tensor:
    """Scores (B, C) of ``frames`` (B, S, crops, 3, H, W) uint8: before softmax, in float32 or wider, on the
    model's device.

    Every image passes the branches once, ``batch_images`` at a time. The windows are then formed on the
    nodes, each of one crop, and their scores averaged over windows and crops: equal to the whole network on
    every window, for about a third of the work at N_seg = 3. The inner segments are in more windows than the
    outer ones and weigh more. A model without graph has no use for windows: one of all S segments gives TSN's
    plain average over segments and crops.

    Under autocast the images are seen in low precision, but the nodes are classified in that of the weights:
    scores rounded to bfloat16 tie.

    Call it in eval mode, without gradients (``evaluate`` does).
    """
    clips, segments, crops = frames.shape[:3]
    parameter = next(model.parameters())
    images = frames.flatten(0, 2)
    chunks = [model.nodes(chunk.to(parameter.device, non_blocking=True)) for chunk in torch.split(images, batch_images)]
    nodes = torch.unflatten(torch.cat(chunks).to(parameter.dtype), 0, (clips, segments, crops))
    nodes = nodes.transpose(1, 2).flatten(0, 1)  # (B * crops, S, K, d)
    windows = window_indices(segments, segments if model.graph is None else model.segments, stride)
    with torch.autocast(parameter.device.type, enabled=False):
        per_window = [model.classify(nodes[:, window.start : window.stop])[0] for window in windows]
    scores = torch.stack(per_window)  # (windows, B * crops, C)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return torch.unflatten(scores, 1, (clips, crops)).mean(dim=(0, 2))


def clip_scores(model: VideoModel, frames: Tensor, *, stride: int = 1, batch_images: int = 64) -> Tensor:
    """Scores (C,) of one clip's ``frames`` (S, crops, 3, H, W) uint8; see ``batch_scores``."""
    return batch_scores(model, frames[None], stride=stride, batch_images=batch_images)[0]


def evaluate(
    model: VideoModel,
    loader: Iterable[ViewBatch],
    *,
    classes: Sequence[str],
    stride: int = 1,
    batch_images: int = 64,
    progress: Callable[[int], None] = lambda clips: None,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    gather: Callable[[ScoredClips], list[ScoredClips]] = lambda part: [part],
) -> tuple[ScoreFile, list[tuple[str, str]]]:
    """Scores of all clips of ``loader``, and name and cause of every clip that was skipped.

    The model is in eval mode meanwhile; every module's mode is restored. ``progress`` is called after each
    batch with the clips in it, skipped ones included; ``autocast`` gives the context of the forward passes
    (for example ``fabric.autocast``). Where several processes have a share of the clips each, ``gather`` gives
    all of them everyone's part.

    Raises ``InputError`` where a clip's scores are not finite, no clip could be read, or the model's scores
    are not those of ``classes``.
    """
    own = ScoredClips()
    with torch.inference_mode(), eval_mode(model):
        for batch in loader:
            own.skipped += batch.skipped
            if batch.names:
                own.views = str(Views(*batch.frames.shape[1:3]))
                with autocast():
                    scores = batch_scores(model, batch.frames, stride=stride, batch_images=batch_images)
                own.scores.append(_finite(scores.float().cpu(), batch.names))
                own.labels.append(batch.labels.cpu())
                own.names += batch.names
            progress(len(batch.names) + len(batch.skipped))
    parts = gather(own)
    skipped = [clip for part in parts for clip in part.skipped]
    if not any(part.names for part in parts):
        cause = f"; the first, {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise InputError(f"test: no clip could be read of {len(skipped)}{cause}")
    return (
        ScoreFile(
            names=tuple(name for part in parts for name in part.names),
            labels=torch.cat([labels for part in parts for labels in part.labels]).numpy().astype(np.int64),
            scores=torch.cat([scores for part in parts for scores in part.scores]).numpy(),
            classes=tuple(classes),
            views=next(part.views for part in parts if part.views),
        ),
        skipped,
    )


def _finite(scores: Tensor, names: list[str]) -> Tensor:
    for name, finite in zip(names, scores.isfinite().all(dim=1).tolist(), strict=True):
        if not finite:
            raise InputError(f"test: the scores of clip {name} are not finite; test in 32-bit or check the weights")
    return scores


@contextmanager
def eval_mode(model: VideoModel) -> Iterator[None]:
    """Eval mode inside, every module's own mode afterwards: frozen batch norms stay frozen."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
