"""Fixed auxiliary branches: a frozen teacher's own features where a branch would learn (section 4.3, Table 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kinet.config import TrunkConfig
from kinet.errors import InputError
from kinet.models.backbone import Block
from kinet.models.dilation import dilate
from kinet.models.human_decoder import sample_grid
from kinet.models.normalise import normalise
from kinet.models.zoo import build_backbone

NODE = "node"
FARTHEST = 2
"""The most that a stage's depth and a block's may differ, as a factor."""
PROBE = 128
"""Side of the grey image that shows whether a network's maps are what its stages say, in pixels."""


@dataclass(frozen=True)
class FeatureStage:
    """One of a network's feature maps, (M, channels, H / stride, W / stride)."""

    name: str
    channels: int
    stride: int
    """Input pixels per cell of the map, on each axis."""
    dilation: int = 1
    """How many times larger the stride would be if the layers were not dilated."""

    @property
    def depth(self) -> int:
        """The stride that tells how deep in the network the stage is, with dilation or without."""
        return self.stride * self.dilation


@runtime_checkable
class StagedNetwork(Protocol):
    """A network that names its feature stages: an ``nn.Module`` with these members can be a fixed branch's teacher."""

    @property
    def mean(self) -> Sequence[float]:
        """Channel means of the normalised input, RGB in [0, 1]."""

    @property
    def std(self) -> Sequence[float]:
        """Channel standard deviations of the normalised input."""

    @property
    def stages(self) -> Sequence[FeatureStage]:
        """What ``forward`` gives, shallowest first; the last one is pooled for the graph."""

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        """The map of every stage, of normalised images (M, 3, H, W)."""


class TeacherTrunk(nn.Module):
    """A ``StagedNetwork``: a backbone without head, dilated as the config says. Its stages are the backbone's.

    Raises InputError: an unknown backbone, or one that cannot be dilated so.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        backbone = build_backbone(config.backbone)
        self.config = config
        self.mean, self.std = backbone.mean, backbone.std
        depths = {block.stage: block.stride for block in backbone.blocks()}
        blocks = dilate(backbone, config.output_stride)
        self.blocks = nn.ModuleDict({block.name: block.module for block in blocks})
        last = {block.stage: block for block in blocks}
        self.stages = [
            FeatureStage(stage, block.channels, block.stride, depths[stage] // block.stride)
            for stage, block in last.items()
        ]

    def forward(self, images: Tensor) -> list[Tensor]:
        """The map behind the last block of every stage; see ``StagedNetwork.forward``."""
        x = images
        maps: dict[str, Tensor] = {}
        for name, block in self.blocks.items():
            x = block(x)
            maps[name.rsplit("_", 1)[0]] = x
        return list(maps.values())


class StageProjection(nn.Module):
    """A stage's map at another place's resolution and width.

    Cells of both maps are centred on input pixels that are multiples of their strides (see ``HumanDecoder``), and the
    map is sampled there, bilinearly; of a map at a finer stride that is every k-th cell. Then a 1x1 convolution.

    Args:
        stage: what comes in.
        channels, stride: of the place.
    """

    def __init__(self, stage: FeatureStage, channels: int, stride: int) -> None:
        super().__init__()
        self.step = stride / stage.stride
        self.project = nn.Conv2d(stage.channels, channels, 1)
        start_as_identity(self.project)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(M, C_stage, h, w) -> (M, channels, *size)."""
        if self.step != 1 or x.shape[2:] != size:
            x = sample_grid(x, size, first=0.0, step=self.step)
        projected: Tensor = self.project(x)
        return projected


class FixedBranch(nn.Module):
    """An auxiliary branch of KINet that is a frozen teacher.

    The teacher sees the action branch's crops under its own normalisation, always in eval mode and without
    gradients. At a CBI, the stage nearest in depth passes a ``StageProjection``; the graph's node is the last stage's
    pooled map, projected to d (pooling before or after a 1x1 convolution is the same). Only projections learn. They
    start as the identity, repeated or averaged where widths differ, so that features come in at their own scale.

    Args:
        task: for messages.
        network: a ``StagedNetwork`` with its weights; becomes frozen.
        places: the action branch's blocks with a CBI behind them.
        node_channels: d; None where no graph asks for a node.

    Raises:
        InputError: no stages, maps that are not what they say, or none near a block's depth.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, task: str, network: nn.Module, places: Sequence[Block], node_channels: int | None) -> None:
        super().__init__()
        self.teacher = network.eval().requires_grad_(False)
        stages = stages_of(task, network)
        mean, std = (torch.tensor(tuple(getattr(network, name))).view(3, 1, 1) for name in ("mean", "std"))
        self.register_buffer("mean", 255 * mean, persistent=False)
        self.register_buffer("std", 255 * std, persistent=False)
        self.sources = {place.name: nearest_stage(task, stages, place) for place in places}
        projections: dict[str, nn.Module] = {
            place.name: StageProjection(stages[self.sources[place.name]], place.channels, place.stride)
            for place in places
        }
        if node_channels is not None:
            projections[NODE] = nn.Linear(stages[-1].channels, node_channels)
            start_as_identity(projections[NODE])
        self.projections = nn.ModuleDict(projections)

    def train(self, mode: bool = True) -> FixedBranch:
        """As ``nn.Module.train``, but the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def teacher_maps(self, frames: Tensor) -> Sequence[Tensor]:
        """The teacher's maps of images (M, 3, H, W), uint8 RGB or float in 0..255: one a stage."""
        maps: Sequence[Tensor] = self.teacher(normalise(frames, self.mean, self.std))
        return maps

    def map_at(self, place: str, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """What the CBI behind the block ``place`` gets: (M, channels, *size)."""
        projected: Tensor = self.projections[place](maps[self.sources[place]], size)
        return projected

    def nodes(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The graph's node (M, d); none without a graph."""
        return [self.projections[NODE](maps[-1].mean(dim=(2, 3)))] if NODE in self.projections else []


def fixed_branches(
    tasks: Sequence[str],
    trunks: Mapping[str, TrunkConfig | None],
    teachers: Mapping[str, nn.Module],
    places: Sequence[Block],
    node_channels: int | None,
) -> dict[str, FixedBranch]:
    """A branch for each task, of the network in ``teachers``, else of one of its form in ``trunks``, without weights.

    Raises InputError where neither is there, or see ``FixedBranch``.
    """
    branches = {}
    for task in tasks:
        network, trunk = teachers.get(task), trunks[task]
        if network is None and trunk is None:
            raise InputError(
                f"model.fixed_trunks.{task}: does not say what network this fixed branch is; training fills it in from "
                f"teachers.{task}, and a network of your own must be handed over: teachers={{{task!r}: network}}"
            )
        if network is None:
            assert trunk is not None
            network = TeacherTrunk(trunk)
        branches[task] = FixedBranch(task, network, places, node_channels)
    return branches


def stages_of(task: str, network: nn.Module) -> Sequence[FeatureStage]:
    """The network's stages; those of networks from outside are compared with its maps of a grey image."""
    name = type(network).__name__
    if not isinstance(network, StagedNetwork) or not network.stages:
        raise InputError(
            f"teachers.{task}: {name} names no feature stages; give it stages, mean and std, "
            "see kinet.models.fixed_branch.StagedNetwork"
        )
    stages = network.stages
    if isinstance(network, TeacherTrunk):
        return stages
    parameter = next(network.parameters())
    with torch.no_grad():
        maps = network(torch.zeros(1, 3, PROBE, PROBE, device=parameter.device, dtype=parameter.dtype))
    given = [x.shape[1] if isinstance(x, Tensor) and x.ndim == 4 else None for x in maps]
    said = [stage.channels for stage in stages]
    if given != said:
        raise InputError(
            f"teachers.{task}: {name} gives maps of {given} channels for an image (None: no map), its stages say {said}"
        )
    return stages


def nearest_stage(task: str, stages: Sequence[FeatureStage], place: Block) -> int:
    """Index of the stage whose depth is nearest to the block's, the deeper one of two. Raises InputError."""

    def distance(index: int) -> float:
        return abs(math.log2(stages[index].depth / place.stride))

    nearest = min(reversed(range(len(stages))), key=distance)
    if distance(nearest) > math.log2(FARTHEST):
        depths = ", ".join(f"{stage.name} at {stage.depth}" for stage in stages)
        raise InputError(
            f"teachers.{task}: no stage near {place.name}'s stride of {place.stride} ({depths}); "
            "take another teacher or another block in model.cbi"
        )
    return nearest


def start_as_identity(layer: nn.Module) -> None:
    """Output i begins as input i; inputs are repeated, or averaged, where there are more outputs, or fewer."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    assert layer.bias is not None
    outputs, inputs = layer.weight.shape[:2]
    channels = torch.arange(max(outputs, inputs), device=layer.weight.device)
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.zero_()
        layer.weight[channels % outputs, channels % inputs] = 1
        layer.weight /= layer.weight.sum(dim=1, keepdim=True)
