"""The whole network, on every backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinet.config import LossConfig, ModelConfig
from kinet.errors import InputError
from kinet.models.kinet import KINet, build_kinet
from kinet.models.zoo import BACKBONES, build_backbone
from kinet.training.criterion import Targets, joint_loss

SMALL = ModelConfig(backbone="mobilenet_v2", weights="none", dropout=0.0)
TSN = replace(SMALL, auxiliaries=[], cbi=[], akg="none")
CLASSES, SCENES = 5, 7


def clips(size: int = 64, batch: int = 2, segments: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, segments, 3, size, size), dtype=torch.uint8, generator=generator)


def loss_of(model: KINet, frames: Tensor) -> Tensor:
    output = model(frames)
    batch, segments = frames.shape[:2]
    human = None if output.human is None else torch.randint(0, 256, output.human[:, :, 0].shape, dtype=torch.uint8)
    classes = torch.randint(0, SCENES, (batch, segments, 2))
    targets = Targets(torch.arange(batch) % CLASSES, human, classes, torch.zeros(batch, segments, 2))
    return joint_loss(output, targets, LossConfig())["total"]


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_every_backbone_makes_a_kinet(backbone: str) -> None:
    with torch.device("meta"):
        model = build_kinet(replace(SMALL, backbone=backbone, cbi=["res4", "res5_1"]), CLASSES, SCENES)
        size = 96
        frames = torch.empty(2, 3, 3, size, size)
        output = model(frames)
        assert output.action.shape == (2, CLASSES)
        assert output.human is not None
        assert output.human.shape == (2, 3, 2, size // 8, size // 8)
        assert output.scene is not None
        assert output.scene.shape == (2, 3, SCENES)
        assert output.edges is not None
        assert output.edges.shape == (2, 3, 9)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18", "bn_inception", "inception_v3"])
def test_at_the_start_the_action_branch_is_the_backbone(backbone: str) -> None:
    torch.manual_seed(0)
    reference = build_backbone(backbone).eval().double()
    torch.manual_seed(0)
    model = build_kinet(replace(SMALL, backbone=backbone, cbi=["res4", "res5_1"]), CLASSES, SCENES).eval().double()
    frames = clips(96)[0].double()
    mean, std = (torch.tensor(x, dtype=torch.float64).view(3, 1, 1) for x in (reference.mean, reference.std))
    x = (frames / 255 - mean) / std
    for block in reference.blocks():
        x = block.module(x)
    nodes = model.nodes(frames)
    torch.testing.assert_close(nodes[:, 0], x.mean(dim=(2, 3)), rtol=1e-5, atol=1e-5)
    for branch in (1, 2):  # the auxiliary branches start from the same weights
        torch.testing.assert_close(nodes[:, branch], nodes[:, 0])


def test_tsn_resnet50_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = build_kinet(replace(TSN, backbone="resnet50"), 400)
    assert sum(parameter.numel() for parameter in model.parameters()) == 24_327_632


def test_tsn_averages_the_scores_of_its_frames() -> None:
    model = build_kinet(TSN, CLASSES).eval()
    frames = clips()
    output = model(frames)
    assert output.human is output.scene is output.edges is None
    single = torch.stack([model(frames[:, i : i + 1]).action for i in range(3)])
    torch.testing.assert_close(output.action, single.mean(dim=0))


def test_gradients_reach_every_parameter_of_every_branch() -> None:
    torch.manual_seed(0)
    model = build_kinet(SMALL, CLASSES, SCENES)
    for cbi in model.cbi.values():  # the identity start keeps the first step's gradient from the gates
        torch.nn.init.normal_(cbi.reduce.weight, 0, 0.01)
    torch.nn.init.normal_(model.classifier.weight)
    loss_of(model, clips()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize(
    ("auxiliaries", "branches"),
    [
        (["scene", "human"], ("action", "scene", "human")),
        (["human", "scene"], ("action", "scene", "human")),
        (["human"], ("action", "human")),
        (["scene"], ("action", "scene")),
    ],
)
def test_auxiliaries_are_switched_one_by_one(auxiliaries: list[str], branches: tuple[str, ...]) -> None:
    model = build_kinet(replace(SMALL, auxiliaries=auxiliaries), CLASSES, SCENES)
    output = model(clips())
    assert model.branches == branches
    assert (output.human is not None) == ("human" in branches)
    assert (output.scene is not None) == ("scene" in branches)
    assert output.edges is not None
    assert output.edges.shape[2] == 3 * len(branches)
    loss_of(model, clips()).backward()


def test_multitask_without_cbi_and_graph_leaves_tsn_its_scores() -> None:
    torch.manual_seed(0)
    tsn = build_kinet(TSN, CLASSES).eval()
    multitask = build_kinet(replace(SMALL, cbi=[], akg="none"), CLASSES, SCENES).eval()
    multitask.load_state_dict(tsn.state_dict(), strict=False)
    torch.testing.assert_close(multitask(clips()).action, tsn(clips()).action)


def test_dropping_the_auxiliary_heads_leaves_the_scores_identical() -> None:
    model = build_kinet(SMALL, CLASSES, SCENES).eval()
    before = model(clips())
    after = model.drop_auxiliary_heads()(clips())
    assert after.human is after.scene is None
    assert torch.equal(before.action, after.action)
    names = [name for name, _ in model.named_parameters()]
    assert not any(name.startswith(("human_decoder", "scene_classifier")) for name in names)


def test_nodes_do_not_depend_on_the_window() -> None:
    model = build_kinet(SMALL, CLASSES, SCENES).eval()
    frames = clips()
    nodes = model.nodes(frames.flatten(0, 1)).unflatten(0, (2, 3))
    scores, edges = model.classify(nodes)
    output = model(frames)
    torch.testing.assert_close(scores, output.action)
    torch.testing.assert_close(edges, output.edges)


def test_cbi_and_sharing_stand_where_they_are_asked_for() -> None:
    model = build_kinet(replace(SMALL, share_until="res4_3", cbi=["res4_5", "res5"]), CLASSES, SCENES)
    assert list(model.shared)[-1] == "res4_3"
    assert model.block_names[0] == "res4_4"
    assert list(model.cbi) == ["res4_5", "res5_5"]


def test_narrow_auxiliary_branches_have_fewer_parameters() -> None:
    full, narrow = (build_kinet(replace(SMALL, aux_width=w), CLASSES, SCENES) for w in (1.0, 0.5))

    def count(model: KINet, branch: str) -> int:
        return sum(parameter.numel() for parameter in model.trunks[branch].parameters())

    assert count(narrow, "scene") < 0.7 * count(full, "scene")
    assert count(narrow, "action") == count(full, "action")
    assert narrow(clips()).action.shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "resnet51"}, "resnet50"),
        ({"cbi": ["res44"]}, "res4"),
        ({"cbi": ["res2"]}, "shared by all branches"),
        ({"share_until": "res5"}, "no block"),
        ({"auxiliaries": []}, "model.cbi"),
        ({"aux_width": 0.0}, "aux_width"),
        ({"segments": 0}, "segments"),
        ({"dropout": 1.0}, "dropout"),
        ({"auxiliaries": ["human", "human"]}, "twice"),
    ],
)
def test_wrong_settings_get_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_kinet(replace(SMALL, **change), CLASSES, SCENES)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_kinet_starts_from_real_weights(shared: Path) -> None:
    weights = str(shared / "weights" / "mobilenet_v2-b0353104.pth")
    model = build_kinet(replace(SMALL, weights=weights), CLASSES, SCENES)
    first = torch.load(weights, weights_only=True)["features.0.0.weight"]
    assert torch.equal(model.shared["stem_1"][0].weight, first)  # type: ignore[index,union-attr,arg-type]
