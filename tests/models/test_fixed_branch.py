"""Fixed branches: the teacher's own features come in, nothing of the teacher moves, and misfits get one line."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kinet.config import ModelConfig, TrainingConfig, TrunkConfig, TrunksConfig
from kinet.errors import InputError
from kinet.evaluation.protocol import batch_scores, eval_mode
from kinet.models.fixed_branch import FeatureStage, FixedBranch, TeacherTrunk, start_as_identity
from kinet.models.kinet import KINet, build_kinet
from kinet.models.zoo import BACKBONES, build_backbone
from kinet.training.optim import build_optimizer, freeze_parameters, set_training_mode

CLASSES = 5
TRUNKS = TrunksConfig(human=TrunkConfig("resnet18", 8), scene=TrunkConfig("resnet10_narrow"))
FIXED = ModelConfig(
    backbone="mobilenet_v2",
    weights="none",
    dropout=0.0,
    cbi=["res4_2", "res5_1"],
    akg_scale=True,
    auxiliary_branches="fixed",
    fixed_trunks=TRUNKS,
)


class OwnNetwork(nn.Module):
    """A teacher that is none of this package's: its strides are 12 and 36, its normalisation its own."""

    mean = (0.1, 0.2, 0.3)
    std = (0.5, 0.6, 0.7)
    stages = (FeatureStage("shallow", 4, 12), FeatureStage("deep", 9, 36))

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 13, 12, 6), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Conv2d(4, 9, 3, 3, 1)

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        shallow = self.first(images)
        return shallow, self.second(shallow)


def frames(count: int = 6, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def lively(model: KINet, seed: int = 0) -> KINet:
    """Statistics, projections and reductions as after a training: what starts as the identity hides mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                    assert tensor is not None
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        for part in (model.fixed, model.cbi, model.classifier):
            for name, tensor in part.named_parameters():
                if ".teacher." not in name and tensor.ndim > 1:
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)
    return model


@pytest.fixture(scope="module")
def model() -> KINet:
    torch.manual_seed(0)
    return lively(build_kinet(FIXED, CLASSES)).eval()


def whole_map(branch: FixedBranch, images: Tensor, stage: str) -> Tensor:
    """The teacher's map behind the last block of a stage, written out."""
    trunk = branch.teacher
    assert isinstance(trunk, TeacherTrunk)
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    x = ((images.permute(0, 2, 3, 1) / 255 - mean) / std).permute(0, 3, 1, 2)
    return through(trunk, x, stage)


def through(trunk: TeacherTrunk, x: Tensor, stage: str) -> Tensor:
    """Through all blocks up to the stage's last, and no further."""
    blocks = list(trunk.blocks.items())
    end = max(i for i, (name, _) in enumerate(blocks) if name.startswith(f"{stage}_")) + 1
    passed: Tensor = nn.Sequential(*(block for _, block in blocks[:end]))(x)
    return passed


@torch.no_grad()
def test_the_nodes_are_the_teachers_last_features_projected_and_pooled(model: KINet) -> None:
    images = frames()
    nodes = model.nodes(images)
    assert (model.branches, nodes.shape) == (("action", "scene", "human"), (6, 3, 1280))
    for number, branch in enumerate(model.fixed_branches(), start=1):
        last = whole_map(branch, images, "res5")
        layer = branch.projections["node"]
        assert isinstance(layer, nn.Linear)
        expected = functional.conv2d(last, layer.weight[:, :, None, None], layer.bias).mean(dim=(2, 3))
        torch.testing.assert_close(nodes[:, number], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_cbi_gets_the_teachers_stage_of_its_depth_projected(model: KINet) -> None:
    """The human teacher is dilated to stride 8: where the block's stride is 16 or 32, every 2nd or 4th cell counts."""
    images = frames()
    given: dict[str, tuple[Tensor, Sequence[Tensor]]] = {}
    hooks = [
        cbi.register_forward_pre_hook(lambda _, inputs, name=name: given.update({name: inputs}))
        for name, cbi in model.cbi.items()
    ]
    model.nodes(images)
    for hook in hooks:
        hook.remove()
    for number, (branch, dilated) in enumerate(zip(model.fixed_branches(), (False, True), strict=True)):
        for place, step in {"res4_2": 2 if dilated else 1, "res5_1": 4 if dilated else 1}.items():
            action, auxiliaries = given[place]
            convolution = branch.get_submodule(f"projections.{place}.project")
            expected = convolution(whole_map(branch, images, place[:4])[:, :, ::step, ::step])
            assert auxiliaries[number].shape == action.shape
            torch.testing.assert_close(auxiliaries[number], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_dilated_teacher_says_what_it_says_undilated() -> None:
    places = [block for block in build_backbone("mobilenet_v2").blocks() if block.name in ("res4_2", "res5_1")]
    torch.manual_seed(0)
    trunks = [TeacherTrunk(TrunkConfig("resnet18", stride)) for stride in (8, 32)]
    trunks[1].load_state_dict(trunks[0].state_dict())
    dilated, plain = (FixedBranch("human", trunk, places, None) for trunk in trunks)
    assert [stage.depth for stage in trunks[0].stages] == [stage.stride for stage in trunks[1].stages]
    images = frames(2, 96)
    for place, size in (("res4_2", (6, 6)), ("res5_1", (3, 3))):
        maps = [branch.map_at(place, branch.teacher_maps(images), size) for branch in (dilated, plain)]
        torch.testing.assert_close(maps[0], maps[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", sorted(set(BACKBONES) - {"resnet34", "resnet101", "resnet152", "resnet200"}))
@torch.no_grad()
def test_every_backbone_can_be_a_teacher(backbone: str) -> None:
    """Later blocks leave the maps that were taken as they were: no layer works in place on them."""
    torch.manual_seed(0)
    trunk = TeacherTrunk(TrunkConfig(backbone)).eval()
    images = torch.randn(1, 3, 96, 96)
    maps = trunk(images)
    assert [stage.name for stage in trunk.stages] == ["stem", "res2", "res3", "res4", "res5"]
    assert [stage.depth for stage in trunk.stages][2:] == [8, 16, 32]
    for stage, feature_map in zip(trunk.stages, maps, strict=True):
        torch.testing.assert_close(feature_map, through(trunk, images, stage.name))
        assert feature_map.shape[1] == stage.channels


def trained_step(model: KINet, training: TrainingConfig) -> None:
    """Two steps as the engine makes them."""
    freeze_parameters(model, training)
    optimizer = build_optimizer(model, training)
    set_training_mode(model, training)
    for _ in range(2):
        scores = model(frames(6).unflatten(0, (2, 3))).action
        functional.cross_entropy(scores, torch.tensor([1, 3])).backward()
        optimizer.step()


@pytest.mark.parametrize(
    "training", [TrainingConfig(), TrainingConfig(partial_bn=True, freeze_until="res3")], ids=["all", "partial_bn"]
)
def test_projections_learn_and_the_teachers_stay_to_the_last_bit(training: TrainingConfig) -> None:
    torch.manual_seed(0)
    model = lively(build_kinet(FIXED, CLASSES))
    before = copy.deepcopy(model.fixed.state_dict())
    trained_step(model, training)
    for name, tensor in model.fixed.state_dict().items():
        assert tensor.equal(before[name]) == (".teacher." in name), name
    projections = [p for name, p in model.fixed.named_parameters() if ".teacher." not in name]
    assert len(projections) == 2 * 2 * (2 + 1)  # weight and bias of two places and the node, of two branches
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projections)


def test_a_teacher_is_always_in_eval_mode_and_in_no_optimizer() -> None:
    model = build_kinet(FIXED, CLASSES)
    training = TrainingConfig(partial_bn=True)
    freeze_parameters(model, training)
    optimized = {id(p) for group in build_optimizer(model, training).param_groups for p in group["params"]}
    for step in (model.train, lambda: set_training_mode(model, training), lambda: model.eval().train(True)):
        step()
        for branch in model.fixed_branches():
            assert not any(module.training for module in branch.teacher.modules())
            assert branch.projections.training
    with eval_mode(model):
        pass
    for branch in model.fixed_branches():
        assert not any(module.training for module in branch.teacher.modules())
        assert not any(p.requires_grad or id(p) in optimized for p in branch.teacher.parameters())
        assert all(id(p) in optimized for p in branch.projections.parameters())
        assert not branch.teacher_maps(frames(1))[-1].requires_grad


@torch.no_grad()
def test_windows_on_features_are_whole_windows(model: KINet) -> None:
    views = frames(5 * 2).unflatten(0, (1, 5, 2))  # a clip of 5 segments in 2 crops
    scores = batch_scores(model, views, batch_images=4)
    windows = [model(views[0, start : start + 3, crop][None]).action for start in range(3) for crop in range(2)]
    torch.testing.assert_close(scores, torch.stack(windows).mean(dim=0), rtol=1e-4, atol=1e-5)


def test_there_are_no_masks_scenes_or_heads(model: KINet) -> None:
    output = model(frames(3)[None])
    assert output.human is output.scene is None
    assert model.human_decoder is model.scene_classifier is None
    assert output.edges is not None
    assert output.edges.shape == (1, 3, 9)


def test_without_a_graph_there_are_no_nodes_and_without_cbi_no_maps() -> None:
    images = frames(3)
    no_graph = build_kinet(replace(FIXED, akg="none"), CLASSES).eval()
    assert no_graph.nodes(images).shape == (3, 1, 1280)
    assert no_graph(images[None]).action.shape == (1, CLASSES)
    no_cbi = build_kinet(replace(FIXED, cbi=[], auxiliaries=["human"]), CLASSES).eval()
    assert [list(branch.projections) for branch in no_cbi.fixed_branches()] == [["node"]]
    assert no_cbi.nodes(images).shape == (3, 2, 1280)


def test_the_action_branch_is_the_learned_networks() -> None:
    """Its parameters have the same names and shapes, whatever gives it context."""
    learned = build_kinet(replace(FIXED, auxiliary_branches="learned", fixed_trunks=TrunksConfig()), CLASSES)
    names = ("shared.", "trunks.action.", "cbi.", "graph.", "classifier.")
    shapes = [
        {name: tensor.shape for name, tensor in network.state_dict().items() if name.startswith(names)}
        for network in (learned, build_kinet(FIXED, CLASSES))
    ]
    assert shapes[0] == shapes[1]


@torch.no_grad()
def test_a_network_of_ones_own() -> None:
    """Its map at stride 36 is enlarged for stride 32: bilinear between the cells' centres, 36 pixels apart."""
    own = OwnNetwork()
    alone = replace(FIXED, auxiliaries=["scene"], cbi=["res5_1"], fixed_trunks=TrunksConfig())
    model = lively(build_kinet(alone, CLASSES, teachers={"scene": own})).eval()
    (branch,) = model.fixed_branches()
    images = frames(2, 96)
    deep = own((images / 255 - torch.tensor(own.mean).view(3, 1, 1)) / torch.tensor(own.std).view(3, 1, 1))[1]
    torch.testing.assert_close(branch.teacher_maps(images)[1], deep)
    rows = torch.tensor([[1, 0, 0], [4 / 36, 32 / 36, 0], [0, 8 / 36, 28 / 36]])
    convolution = branch.get_submodule("projections.res5_1.project")
    given = branch.map_at("res5_1", branch.teacher_maps(images), (3, 3))
    torch.testing.assert_close(given, convolution(rows @ deep @ rows.T), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("outputs", "inputs"), [(6, 6), (7, 3), (3, 7)])
def test_projections_start_as_the_identity_repeated_or_averaged(outputs: int, inputs: int) -> None:
    layer = nn.Linear(inputs, outputs)
    start_as_identity(layer)
    torch.testing.assert_close(layer(torch.ones(inputs)), torch.ones(outputs))
    same = min(outputs, inputs)
    if outputs >= inputs:
        assert torch.equal(layer.weight[:same, :same], torch.eye(same))
        assert torch.equal(layer.weight[inputs:], torch.eye(inputs)[torch.arange(inputs, outputs) % inputs])
    else:
        features = torch.arange(7.0)
        torch.testing.assert_close(layer(features), torch.tensor([(0 + 3 + 6) / 3, (1 + 4) / 2, (2 + 5) / 2]))


class Nameless(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images


class Boastful(OwnNetwork):
    stages = (FeatureStage("shallow", 4, 12), FeatureStage("deep", 10, 36))


class Shallow(OwnNetwork):
    stages = (FeatureStage("first", 4, 6), FeatureStage("second", 9, 12))


@pytest.mark.parametrize(
    ("change", "teachers", "message"),
    [
        ({"fixed_trunks": TrunksConfig(scene=TRUNKS.scene)}, {}, "model.fixed_trunks.human: does not say"),
        ({"fixed_trunks": TrunksConfig(TRUNKS.human, TrunkConfig("resnet19"))}, {}, "no backbone 'resnet19'"),
        ({"fixed_trunks": TrunksConfig(TrunkConfig("resnet18", 7), TRUNKS.scene)}, {}, "output_stride: 7"),
        ({"auxiliaries": [], "cbi": []}, {}, "model.auxiliaries names none"),
        ({"cbi": [], "akg": "none"}, {}, "set model.cbi or model.akg"),
        ({"aux_width": 0.5}, {}, "model.aux_width"),
        ({"auxiliary_branches": "learned"}, {}, "model.fixed_trunks: needs model.auxiliary_branches: fixed"),
        ({}, {"scene": Nameless()}, "teachers.scene: Nameless names no feature stages"),
        ({}, {"scene": Boastful()}, r"teachers.scene: Boastful gives maps of \[4, 9\].* say \[4, 10\]"),
        ({}, {"human": Shallow()}, r"teachers.human: no stage near res5_1's stride of 32 \(first at 6, second at 12\)"),
    ],
)
def test_misfits_get_one_line(change: dict[str, object], teachers: dict[str, nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_kinet(replace(FIXED, **change), CLASSES, teachers=teachers)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
