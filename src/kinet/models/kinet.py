"""KINet and TSN: one network, with and without auxiliary branches (section 3, Figure 2)."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kinet.config import ModelConfig, TrunksConfig
from kinet.errors import InputError
from kinet.models.akg import ActionKnowledgeGraph
from kinet.models.backbone import Backbone, Block
from kinet.models.cbi import CrossBranchIntegration
from kinet.models.fixed_branch import FixedBranch, fixed_branches
from kinet.models.human_decoder import HumanDecoder, mask_side
from kinet.models.normalise import normalise
from kinet.models.zoo import build_backbone

ACTION, SCENE, HUMAN = "action", "scene", "human"


class KINetOutput(NamedTuple):
    """What a forward pass gives. B clips, N segments, C actions, S scenes, K branches."""

    action: Tensor
    """(B, C) action scores, before softmax."""
    human: Tensor | None
    """(B, N, 2, h, w) logits of {background, human}, h and w 1/8 of the input's."""
    scene: Tensor | None
    """(B, N, S) scene scores, before softmax."""
    edges: Tensor | None
    """(B, N, K * N) edges of the action knowledge graph."""


class BranchFeatures(NamedTuple):
    """What the trunk gives for M images."""

    nodes: Tensor
    """(M, K, d) pooled last features of every branch, the action branch first."""
    human_maps: list[Tensor]
    """The human branch's stage outputs, shallowest first; empty without that branch."""


class KINet(nn.Module):
    """A TSN whose action branch is told about people and places.

    Frames are sampled from N_seg segments of a clip. Each passes the shared layers, then the branches block by
    block; behind the blocks that ``cbi`` names, the auxiliary maps are integrated into the action map. The
    pooled features of all branches and frames are the nodes of the graph; the mean of the action nodes is
    classified. Without auxiliaries and graph this is TSN (Wang et al., 2016) with average consensus.

    The human decoder and the scene classifier serve the joint training only, see ``drop_auxiliary_heads``. Fixed
    branches have neither.

    Args:
        backbone: gives the input normalisation.
        shared: the layers before the branches.
        branches: the layers of each branch by its name, ``action`` first; the same block names in each.
        cbi: integrations by the name of the block that they stand behind.
        graph: None averages the action nodes as they are.
        classes: number of actions, C.
        segments: N_seg.
        dropout: before both classifiers.
        scene_classes: number of scenes S, for the scene branch's classifier.
        fixed: auxiliary branches that are frozen teachers, by name.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        shared: Sequence[Block],
        branches: Mapping[str, Sequence[Block]],
        cbi: Mapping[str, CrossBranchIntegration],
        graph: ActionKnowledgeGraph | None,
        *,
        classes: int,
        segments: int,
        dropout: float,
        scene_classes: int,
        fixed: Mapping[str, FixedBranch] | None = None,
    ) -> None:
        super().__init__()
        self.segments = segments
        self.classes = classes
        self.block_names = [block.name for block in branches[ACTION]]
        self.register_buffer("mean", 255 * torch.tensor(backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(backbone.std).view(3, 1, 1), persistent=False)

        self.shared = nn.ModuleDict({block.name: block.module for block in shared})
        self.trunks = nn.ModuleDict(
            {name: nn.ModuleDict({block.name: block.module for block in blocks}) for name, blocks in branches.items()}
        )
        self.fixed = nn.ModuleDict(fixed)
        self.cbi = nn.ModuleDict(cbi)
        self.graph = graph

        channels = backbone.feature_channels
        self.dropout = nn.Dropout(dropout)
        self.classifier = linear(channels, classes)
        self.scene_classifier = linear(channels, scene_classes) if SCENE in branches else None
        self.human_decoder: HumanDecoder | None = None
        self.human_levels: list[str] = []
        if HUMAN in branches:
            levels = last_blocks_by_stride(branches[HUMAN])
            self.human_levels = [block.name for block in levels]
            self.human_decoder = HumanDecoder([block.channels for block in levels], [block.stride for block in levels])

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches, in the order of the nodes: ``action`` first."""
        return (*self.trunks, *self.fixed)

    def forward(self, clips: Tensor, *, auxiliary: bool = True) -> KINetOutput:
        """Scores of clips of N_seg frames each.

        Args:
            clips: (B, N, 3, H, W) uint8 RGB, or float in 0..255.
            auxiliary: also compute masks and scenes (where their heads are there).
        """
        batch, segments, _, height, width = clips.shape
        features = self.features(clips.flatten(0, 1))
        nodes = torch.unflatten(features.nodes, 0, (batch, segments))
        action, edges = self.classify(nodes)
        human = scene = None
        if auxiliary and self.human_decoder is not None:
            size = (mask_side(height), mask_side(width))
            human = torch.unflatten(self.human_decoder(features.human_maps, size), 0, (batch, segments))
        if auxiliary and self.scene_classifier is not None:
            scene = self.scene_classifier(self.dropout(nodes[:, :, self.branches.index(SCENE)]))
        return KINetOutput(action, human, scene, edges)

    def features(self, frames: Tensor) -> BranchFeatures:
        """Pass images (M, 3, H, W), uint8 RGB or float in 0..255, through shared layers, branches and CBI."""
        x = normalise(frames, self.mean, self.std)
        for block in self.shared.values():
            x = block(x)
        maps = dict.fromkeys(self.trunks, x)
        fixed = [(branch, branch.teacher_maps(frames)) for branch in self.fixed_branches()]
        human_maps = []
        for name in self.block_names:
            for branch, trunk in self.trunks.items():
                assert isinstance(trunk, nn.ModuleDict)
                maps[branch] = trunk[name](maps[branch])
            if name in self.cbi:
                action = maps[ACTION]
                auxiliaries = [auxiliary for branch, auxiliary in maps.items() if branch != ACTION]
                size = (action.shape[2], action.shape[3])
                auxiliaries += [branch.map_at(name, given, size) for branch, given in fixed]
                maps[ACTION] = self.cbi[name](action, auxiliaries)
            if self.human_decoder is not None and name in self.human_levels:
                human_maps.append(maps[HUMAN])
        nodes = [feature_map.mean(dim=(2, 3)) for feature_map in maps.values()]
        nodes += [node for branch, given in fixed for node in branch.nodes(given)]
        return BranchFeatures(torch.stack(nodes, dim=1), human_maps)

    def nodes(self, frames: Tensor) -> Tensor:
        """The graph's nodes for images (M, 3, H, W): (M, K, d). An image's nodes do not depend on its window."""
        return self.features(frames).nodes

    def classify(self, nodes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Action scores of windows, from their nodes (B, N, K, d): (B, C), and the edges (B, N, K * N) if any."""
        edges = None
        if self.graph is None:
            action = nodes[:, :, 0]
        else:
            action, edges = self.graph(nodes)
        return self.classifier(self.dropout(action.mean(dim=1))), edges

    def to_channels_last(self) -> KINet:
        """Lay out the convolutions' weights as ``features`` lays out its input. Returns self."""
        return self.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]

    def drop_auxiliary_heads(self) -> KINet:
        """Remove the human decoder and the scene classifier; action scores stay as they are. Returns self."""
        self.human_decoder = None
        self.scene_classifier = None
        return self

    def fixed_branches(self) -> Iterator[FixedBranch]:
        """The auxiliary branches that are frozen teachers."""
        for branch in self.fixed.values():
            assert isinstance(branch, FixedBranch)
            yield branch

    def backbone_modules(self) -> Iterator[nn.Module]:
        """All modules that come from the backbone, in order.

        CBI, graph, decoder, classifiers and fixed branches are not among them.
        """
        for part in (self.shared, self.trunks):
            yield from part.modules()


def build_kinet(
    config: ModelConfig, classes: int, scene_classes: int = 365, teachers: Mapping[str, nn.Module] | None = None
) -> KINet:
    """Put the network of ``config`` together, with its pretrained weights.

    Args:
        classes: number of actions.
        scene_classes: number of the scene teacher's classes.
        teachers: of fixed branches, by task: networks with their weights, see ``StagedNetwork``. Without one, the
            network that ``config.fixed_trunks`` describes is built, whose weights are to be loaded.

    Raises:
        InputError: an unknown backbone, stage or block, settings that exclude each other, weights that can't be had,
            or a teacher that a fixed branch can't take features from.
    """
    if len(set(config.auxiliaries)) < len(config.auxiliaries):
        raise InputError(f"model.auxiliaries: {config.auxiliaries} names a branch twice")
    if config.cbi and not config.auxiliaries:
        raise InputError("model.cbi: needs an auxiliary branch; set model.cbi to [] or name one in model.auxiliaries")
    if not 0 < config.aux_width <= 1:
        raise InputError(f"model.aux_width: {config.aux_width} is not above 0 and up to 1")
    if config.segments < 1:
        raise InputError(f"model.segments: {config.segments} is not a positive number of frames")
    if not 0 <= config.dropout < 1:
        raise InputError(f"model.dropout: {config.dropout} is not from 0 to below 1")

    if config.auxiliary_branches == "fixed":
        check_fixed(config)
    elif config.fixed_trunks != TrunksConfig():
        raise InputError("model.fixed_trunks: needs model.auxiliary_branches: fixed; set that, or leave it out")

    backbone = build_backbone(config.backbone, weights=config.weights)
    blocks = backbone.blocks()
    first_branched = find_block(config.share_until, blocks, "model.share_until") + 1
    if first_branched == len(blocks):
        raise InputError(f"model.share_until: {config.share_until} leaves no block for the branches")
    shared, action = blocks[:first_branched], blocks[first_branched:]

    branches = {ACTION: action}
    for auxiliary in (SCENE, HUMAN):
        if auxiliary in config.labelled_auxiliaries:
            branches[auxiliary] = auxiliary_blocks(config, blocks)[first_branched:]

    cbi, places = {}, []
    for name in config.cbi:
        block = blocks[find_block(name, blocks, "model.cbi")]
        if block not in action:
            raise InputError(f"model.cbi: {name} is shared by all branches (share_until: {config.share_until})")
        places.append(block)
        cbi[block.name] = CrossBranchIntegration(block.channels, len(config.auxiliaries), config.cbi_gate)

    graph = None
    if config.akg != "none":
        graph = ActionKnowledgeGraph(
            backbone.feature_channels, config.akg, scale=config.akg_scale, residual=config.akg_residual
        )
    fixed = {}
    if config.auxiliary_branches == "fixed":
        trunks = {SCENE: config.fixed_trunks.scene, HUMAN: config.fixed_trunks.human}
        tasks = [task for task in trunks if task in config.auxiliaries]
        channels = None if graph is None else backbone.feature_channels
        fixed = fixed_branches(tasks, trunks, teachers or {}, places, channels)
    return KINet(
        backbone,
        shared,
        branches,
        cbi,
        graph,
        classes=classes,
        segments=config.segments,
        dropout=config.dropout,
        scene_classes=scene_classes,
        fixed=fixed,
    )


def check_fixed(config: ModelConfig) -> None:
    """Refuse fixed branches that nobody would see, and settings of learned ones. Raises InputError."""
    if not config.auxiliaries:
        raise InputError("model.auxiliary_branches: fixed, but model.auxiliaries names none; name scene or human there")
    if not config.cbi and config.akg == "none":
        raise InputError("model.auxiliary_branches: fixed ones serve CBI and graph alone; set model.cbi or model.akg")
    if config.aux_width != 1:
        raise InputError("model.aux_width: needs model.auxiliary_branches: learned; set that, or leave it out")


def auxiliary_blocks(config: ModelConfig, blocks: Sequence[Block]) -> list[Block]:
    """The blocks of one auxiliary branch: a copy of the backbone's, or narrower ones with its weights sliced."""
    if config.aux_width < 1:
        narrow = build_backbone(config.backbone, weights=config.weights, inner_width=config.aux_width)
        return narrow.blocks()
    return [Block(b.name, copy.deepcopy(b.module), b.channels, b.stride) for b in blocks]


def find_block(name: str, blocks: Sequence[Block], key: str) -> int:
    """Index of the block of that name, or of the last block of the stage of that name."""
    names = [block.name for block in blocks]
    return names.index(find_block_name(name, names, key))


def find_block_name(name: str, blocks: Sequence[str], key: str) -> str:
    """``name`` if a block is called so, or the last block of the stage of that name.

    Raises:
        InputError: neither is there; names ``key``, the setting that asked.
    """
    for block in reversed(blocks):
        if name in (block, block.rsplit("_", 1)[0]):
            return block
    stages = list(dict.fromkeys(block.rsplit("_", 1)[0] for block in blocks))
    nearest = difflib.get_close_matches(name, [*stages, *blocks], n=1, cutoff=0)[0]
    raise InputError(f"{key}: no stage or block {name!r} here, nearest is {nearest!r} (stages: {', '.join(stages)})")


def last_blocks_by_stride(blocks: Sequence[Block]) -> list[Block]:
    """The last block at each resolution, shallowest first."""
    last: dict[int, Block] = {}
    for block in blocks:
        last[block.stride] = block
    return list(last.values())


def linear(channels: int, classes: int) -> nn.Linear:
    """A classifier as TSN starts it: standard deviation .001 (tsn-pytorch, models.py)."""
    layer = nn.Linear(channels, classes)
    nn.init.normal_(layer.weight, 0, 0.001)
    nn.init.zeros_(layer.bias)
    return layer
