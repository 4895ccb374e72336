"""Configs from files and the command line."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from kinet.config import Config, config_from_dict, load_config
from kinet.errors import InputError
from kinet.models.kinet import build_kinet
from kinet.training.run_folder import to_plain

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "teach")


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_there_are_shipped_configs() -> None:
    assert len(CONFIGS) == 9


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_config_builds(path: Path) -> None:
    config = load_config(path, ["--model.weights", "none"])
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(header) >= 3
    assert all(word in " ".join(header) for word in ("Needs", "Costs", "Should reach"))
    import torch

    with torch.device("meta"):
        model = build_kinet(config.model, 400)
    assert model.segments == 3
    assert (len(model.branches) == 3) == path.name.startswith("kinet")
    for auxiliary in config.model.auxiliaries:
        assert getattr(config.teachers, auxiliary) is not None


def test_defaults_are_the_papers() -> None:
    training = Config().training
    assert (training.lr, training.momentum, training.weight_decay) == (0.01, 0.9, 1e-5)
    assert (training.epochs, training.milestones) == (70, [20, 40, 60])
    assert Config().data.frame_size == (256, 340)


def test_command_line_goes_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "model:\n  backbone: resnet18\ntraining:\n  lr: 1e-2\n")
    arguments = [
        "--training.lr",
        "5e-4",
        "--data.scales=[1, 0.5]",
        "--teachers.human.path",
        "a.onnx",
        "--data.val",
        "v.csv",
    ]
    config = load_config(path, arguments)
    assert config.model.backbone == "resnet18"
    assert config.training.lr == 5e-4
    assert config.data.scales == [1.0, 0.5]
    assert config.teachers.human is not None
    assert config.teachers.human.path == "a.onnx"
    assert config.data.val == "v.csv"


def test_a_config_survives_being_written_and_read(tmp_path: Path) -> None:
    path = write(tmp_path, "teachers:\n  scene:\n    path: s.onnx\n    input_size: [3, 4]\n")
    config = load_config(path, ["--data.frame_size", "[10, 20]"])
    again = load_config(write(tmp_path, yaml.safe_dump(to_plain(asdict(config)))))
    assert again == config
    assert config_from_dict(asdict(config), "memory") == config


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("modle:\n  backbone: resnet18\n", [], "unknown key 'modle'; nearest is 'model'"),
        ("model:\n  backbon: resnet18\n", [], "model: unknown key 'backbon'; nearest is 'backbone'"),
        ("teachers:\n  human:\n    pth: x\n", [], "teachers: human: unknown key 'pth'; nearest is 'path'"),
        ("", ["--trainin.lr", "1"], "command line: unknown key 'trainin'; nearest is 'training'"),
        ("", ["--training.lrr", "1"], "command line: training: unknown key 'lrr'; nearest is 'lr'"),
        ("", ["--training.lr"], "has no value"),
        ("", ["stray"], "expected --key value"),
        ("", ["--data.scales", "[1,"], "not YAML"),
        ("training:\n  lr: fast\n", [], "training.lr"),
        ("training:\n  epochs: 1.5\n", [], "training.epochs"),
        ("model:\n  akg: dott\n", [], "model.akg"),
        ("- a\n- b\n", [], "expected keys and values"),
        ("a: [1\n", [], "not YAML"),
        ("x: !!python/object/apply:os.system ['true']\n", [], "not YAML"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, text: str, arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(write(tmp_path, text), arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such config"):
        load_config(tmp_path / "none.yaml")
