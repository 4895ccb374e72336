"""Fixed branches from the teachers' files: trained, resumed, and tested where those files are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional

from kinet.cli import main
from kinet.config import Config, LossConfig, TeachersConfig, TrunkConfig, TrunksConfig, config_from_dict
from kinet.errors import InputError
from kinet.evaluation.scores import read_scores
from kinet.models.fixed_branch import FeatureStage
from kinet.models.zoo import BACKBONES
from kinet.teachers.cache import LabelCache
from kinet.teachers.fixed_teacher import open_fixed_teachers, open_trunk
from kinet.teachers.teach_config import (
    HumanTeachConfig,
    ParserConfig,
    SceneNetworkConfig,
    SceneTeachConfig,
    TeachConfig,
)
from kinet.teachers.teacher_checkpoint import TeacherCheckpoint, build_network, load_network, load_teacher, save_teacher
from kinet.teachers.teacher_config import TeacherConfig
from kinet.training.checkpoint import load_checkpoint, load_model
from kinet.training.engine import train
from kinet.training.run_folder import to_plain

ToySet = Any  # tests/conftest.py's, which tests cannot import
IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def write_teacher(path: Path, config: TeachConfig, classes: int) -> TeacherConfig:
    """A checkpoint as ``kinet teach`` writes it, with weights that make every layer's output vary."""
    network = build_network(config, classes)
    for name, tensor in network.state_dict().items():
        if "running" in name:
            tensor.copy_(0.5 + torch.rand(tensor.shape))
    save_teacher(path, TeacherCheckpoint(config, [str(i) for i in range(classes)], network.state_dict(), {}))
    return TeacherConfig(str(path))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> TeachersConfig:
    """A parser of ``kinet teach human``, and a network as Places365 publishes it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("teachers")
    human = write_teacher(
        folder / "human.pt", HumanTeachConfig(network=ParserConfig("resnet10_narrow", "none", 8, 16)), 2
    )
    network = BACKBONES["resnet18"](classes=365)
    state = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save({"arch": "resnet18", "state_dict": state}, folder / "resnet18_places365.pth.tar")
    scene = TeacherConfig(str(folder / "resnet18_places365.pth.tar"))
    return TeachersConfig(human=human, scene=scene, cache=str(folder / "labels"))


@pytest.fixture
def config(toy: ToySet, teachers: TeachersConfig, tmp_path: Path) -> Config:
    """A training of a second or two."""
    config: Config = toy.kinet(tmp_path / "run")
    model = replace(config.model, auxiliary_branches="fixed")
    return replace(config, model=model, teachers=teachers, loss=LossConfig())


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@torch.no_grad()
def test_a_trunk_is_the_files_network_without_its_head(teachers: TeachersConfig) -> None:
    assert teachers.human is not None
    assert teachers.scene is not None
    parser = load_network(load_teacher(Path(teachers.human.path)), "").eval()
    trunk = open_trunk("human", teachers.human).eval()
    assert trunk.config == TrunkConfig("resnet10_narrow", 8)
    normalised = (IMAGES / 255 - parser.mean) / parser.std
    head = nn.Sequential(parser.get_submodule("pyramid"), parser.get_submodule("classify"))
    torch.testing.assert_close(head(trunk(normalised)[-1]), parser(IMAGES).parts)

    trunk = open_trunk("scene", teachers.scene).eval()
    assert trunk.config == TrunkConfig("resnet18", 32)
    state = torch.load(teachers.scene.path)["state_dict"]
    published = BACKBONES["resnet18"](classes=365).eval()
    published.load_state_dict({key.removeprefix("module."): tensor for key, tensor in state.items()})
    pooled = trunk(normalised)[-1].mean(dim=(2, 3))
    scores = functional.linear(pooled, state["module.fc.weight"], state["module.fc.bias"])
    torch.testing.assert_close(scores, published(normalised))


def test_train_and_test_where_the_teachers_are_not(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line: no frame is labelled, and the checkpoint alone makes the network."""
    monkeypatch.setattr(LabelCache, "fill", lambda *_: pytest.fail("labels were asked for"))
    folder = tmp_path / "teachers"
    teachers = config.teachers
    assert teachers.human is not None
    assert teachers.scene is not None
    folder.mkdir()
    moved = {
        task: replace(teacher, path=shutil.copy(teacher.path, folder))
        for task, teacher in {"human": teachers.human, "scene": teachers.scene}.items()
    }
    config = replace(config, teachers=replace(teachers, **moved))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_plain(asdict(config))))
    assert main(["train", str(file), "--training.epochs", "3"]) == 0
    assert not Path(teachers.cache).exists()
    log = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
    assert "loss_action" in log[0]
    assert "loss_human" not in log[0]

    shutil.rmtree(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    checkpoint = shutil.copy(Path(config.out) / "checkpoints" / "best.pt", elsewhere / "mine.pt")
    shutil.rmtree(config.out)
    monkeypatch.chdir(elsewhere)
    capsys.readouterr()
    assert main(["test", "mine.pt", "--views", "5x2", "--workers", "0", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    scores = read_scores(Path(result["scores"]))
    assert (result["videos"], scores.scores.shape) == (6, (6, 3))
    assert np.isfinite(scores.scores).all()

    loaded = load_checkpoint(Path(checkpoint))
    assert loaded.config.model.fixed_trunks == TrunksConfig(
        TrunkConfig("resnet10_narrow", 8), TrunkConfig("resnet18", 32)
    )
    model = load_model(loaded, "mine.pt")
    state = torch.load(teachers.scene.path)["state_dict"]
    kept = model.state_dict()["fixed.scene.teacher.blocks.res4_1.conv1.weight"]
    assert kept.equal(state["module.layer3.0.conv1.weight"])


def test_a_run_goes_on_with_its_own_teachers_only(config: Config, tmp_path: Path) -> None:
    whole = train(replace(config, out=str(tmp_path / "whole")))
    one = replace(config, training=replace(config.training, epochs=1))
    train(one)
    assert config.teachers.human is not None
    changed = write_teacher(tmp_path / "human.pt", load_teacher(Path(config.teachers.human.path)).config, 2)
    other = replace(config, teachers=replace(config.teachers, human=changed))
    assert "teachers.human is not the one that this run began with" in refusal(lambda: train(other, resume="auto"))
    resumed = train(config, resume="auto")
    assert resumed["epochs"] == whole["epochs"] == 2
    states = [load_checkpoint(Path(run["run"]) / "checkpoints" / "last.pt").model for run in (whole, resumed)]
    assert all(states[0][name].equal(states[1][name]) for name in states[0])


class OwnNetwork(nn.Module):
    mean = std = (0.5, 0.5, 0.5)
    stages = (FeatureStage("fine", 4, 16), FeatureStage("coarse", 6, 32))

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.BatchNorm2d(4), nn.ReLU())
        self.coarse = nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        fine = self.fine(images)
        return [fine, self.coarse(fine)]


def test_a_network_of_ones_own_trains_beside_one_of_a_file(config: Config) -> None:
    own = OwnNetwork()
    config = replace(config, teachers=replace(config.teachers, scene=None))
    train(config, teachers={"scene": own})
    path = Path(config.out) / "checkpoints" / "best.pt"
    assert "model.fixed_trunks.scene: does not say" in refusal(lambda: load_model(load_checkpoint(path), str(path)))
    model = load_model(load_checkpoint(path), str(path), {"scene": OwnNetwork()})
    branch = next(model.fixed_branches())
    assert all(branch.teacher.state_dict()[name].equal(tensor) for name, tensor in own.state_dict().items())
    learned = replace(config, model=replace(config.model, auxiliary_branches="learned"), out=f"{config.out}2")
    assert "need it to be fixed" in refusal(lambda: open_fixed_teachers(learned, {"scene": own}))


def test_teachers_that_cannot_be_a_branch_get_one_line(config: Config, tmp_path: Path) -> None:
    def told(**changes: TeacherConfig | None) -> str:
        return refusal(lambda: open_fixed_teachers(replace(config, teachers=replace(config.teachers, **changes))))

    scene, human = config.teachers.scene, config.teachers.human
    assert scene is not None
    assert human is not None
    assert "teachers.scene: the scene branch needs one" in told(scene=None)
    line = told(scene=TeacherConfig("squeezenet.onnx"))
    assert "teachers.scene: squeezenet.onnx: fixed branches need a network that names its feature stages" in line
    assert line.endswith("take a checkpoint of kinet teach scene or of Places365")
    assert told(human=TeacherConfig("prisma.onnx")).endswith("take a checkpoint of kinet teach human")
    assert "no such file" in told(scene=TeacherConfig(str(tmp_path / "none.pt")))
    assert "teachers.human: resnet18_places365.pth.tar is a teacher of the task scene" in told(human=scene)
    assert "teachers.scene: human.pt is a teacher of the task human" in told(scene=human)
    assert "input_size has no part in fixed branches" in told(scene=replace(scene, input_size=(64, 64)))
    assert "scale has no part in fixed branches" in told(human=replace(human, scale="unit"))
    trunks = TrunksConfig(scene=TrunkConfig("resnet50"))
    said = replace(config, model=replace(config.model, fixed_trunks=trunks))
    assert (
        "model.fixed_trunks.scene: says resnet50 at stride 32, teachers.scene is resnet18 at stride 32; leave it out"
        in refusal(lambda: open_fixed_teachers(said))
    )


@pytest.mark.parametrize(
    ("loss", "key"),
    [
        (LossConfig(human=0.5), "loss.human: 0.5"),
        (LossConfig(scene=0.1), "loss.scene: 0.1"),
        (LossConfig(soft_labels=True), "loss.soft_labels: True"),
        (LossConfig(temperature=2.0), "loss.temperature: 2.0"),
    ],
)
def test_label_losses_are_refused(config: Config, loss: LossConfig, key: str) -> None:
    line = refusal(lambda: config_from_dict(to_plain(asdict(replace(config, loss=loss))), "c.yaml"))
    assert line.startswith(f"c.yaml: {key} is of pseudo labels, which fixed branches do not learn; set it to ")
    silent = replace(config, loss=LossConfig(human=0, scene=0))
    assert config_from_dict(to_plain(asdict(silent)), "c.yaml") == silent


def test_a_checkpoint_of_kinet_teach_scene(tmp_path: Path) -> None:
    config = SceneTeachConfig(network=SceneNetworkConfig("mobilenet_v2", "none"))
    trunk = open_trunk("scene", write_teacher(tmp_path / "scene.pt", config, 4))
    taught = load_network(load_teacher(tmp_path / "scene.pt"), "").state_dict()
    assert trunk.config == TrunkConfig("mobilenet_v2", 32)
    assert trunk.state_dict()["blocks.res5_5.0.weight"].equal(taught["backbone.features.18.0.weight"])
