"""Teachers on the command line: ``kinet teach check``, and one line for each bad teacher wherever it is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper

from kinet.cli import main
from kinet.config import TeachersConfig
from kinet.teachers.teacher_config import TeacherConfig
from kinet.training.run_folder import to_plain

ToySet = Any  # tests/conftest.py's, which tests cannot import


def network(path: Path, outputs: list[Any], weight: np.ndarray | None = None, **reduction: Any) -> dict[str, Any]:
    """The settings of an ONNX teacher that reduces colours by their mean, and multiplies it by ``weight``."""
    reduced = helper.make_node("ReduceMean", ["x"], ["mean"], **reduction)
    scaled = helper.make_node("Mul" if weight is None or weight.ndim == 0 else "MatMul", ["mean", "w"], ["y"])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [reduced, scaled],
        "teacher",
        [value("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [value("y", TensorProto.FLOAT, ["n", *outputs])],
        [numpy_helper.from_array(np.ones((), np.float32) if weight is None else weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return {"path": str(path), "scale": "unit"}


def masks(folder: Path, factor: float = 1) -> dict[str, Any]:
    """P(person) is the brightness times ``factor``."""
    weight = np.array(factor, np.float32)
    settings = network(folder / "masks.onnx", [1, 16, 16], weight, axes=[1], keepdims=1)
    return settings | {"task": "human", "activation": "probability"}


def scenes(folder: Path, **settings: Any) -> dict[str, Any]:
    weight = 9 * np.eye(3, dtype=np.float32)
    found = network(folder / "scenes.onnx", [3], weight, axes=[2, 3], keepdims=0)
    return found | {"task": "scene", "activation": "logit"} | settings


def holds_code(folder: Path) -> dict[str, Any]:
    class Code:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return eval, (f"open({str(folder / 'ran')!r}, 'w')",)

    torch.save({"kinet_teacher": 1, "task": Code()}, folder / "teacher.pt")
    return {"path": str(folder / "teacher.pt")}


def wrong_names(folder: Path) -> dict[str, Any]:
    (folder / "names.txt").write_text("sea\nwood\n")
    return scenes(folder, class_names=str(folder / "names.txt"))


def hub(folder: Path) -> dict[str, Any]:
    (folder / "hubconf.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    return {"path": f"hub:{folder}:parser", "scale": "unit", "input_size": [16, 16]}


BAD: list[tuple[Callable[[Path], dict[str, Any]], str]] = [
    (lambda f: scenes(f, task="human"), "should be the mask of one frame, NCHW (see mask_layout), it is (1, 3)"),
    (lambda f: masks(f) | {"task": "scene"}, "should be (1, classes) for one frame, it is (1, 1, 16, 16)"),
    (wrong_names, "names.txt: 2 names, but scenes.onnx has 3 classes"),
    (holds_code, "teacher.pt: refused, loading it would call"),
    (hub, "refused, torch.hub would run this repository's code"),
    (lambda f: {"path": f"hf:{f}"}, "hf:"),
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        return main([str(argument) for argument in arguments]), *capsys.readouterr()

    return call


def settings_file(settings: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize(("make", "line"), BAD, ids=["mask", "scene", "names", "code", "hub", "hf"])
def test_a_bad_teacher_gets_one_line(
    toy: ToySet, tmp_path: Path, run: Callable[..., Any], make: Callable[[Path], dict[str, Any]], line: str
) -> None:
    settings = make(tmp_path)
    teacher = settings_file(settings, tmp_path / "teacher.yaml")
    task = settings.get("task", "human")
    config = toy.kinet(tmp_path / "run")
    teachers = TeachersConfig(**{task: TeacherConfig(**settings)}, cache=str(tmp_path / "labels"))
    auxiliaries = replace(config.model, auxiliaries=[task])
    config_file = settings_file(to_plain(asdict(replace(config, model=auxiliaries, teachers=teachers))), tmp_path / "c")
    for command in (
        ["teach", "check", toy.val, "--teacher", teacher, "--out", tmp_path / "check"],
        ["train", config_file],
    ):
        code, out, err = run(*command)
        assert (code, out) == (2, "")
        (said,) = err.splitlines()
        assert said.startswith("kinet: ")
        assert line in said
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "check").exists()


def test_check_of_two_teachers(toy: ToySet, tmp_path: Path, run: Callable[..., Any]) -> None:
    first = settings_file(masks(tmp_path), tmp_path / "first.yaml")
    second = settings_file(scenes(tmp_path), tmp_path / "second.yml")
    command = ["teach", "check", toy.val, "--teacher", first, "--teacher", second, "--clips", 4, "--frames", 3]
    code, out, err = run(*command, "--seed", 5, "--out", tmp_path / "a")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result == json.loads((tmp_path / "a/check.json").read_text())
    assert (result["clips"], result["frames"], result["warnings"]) == (4, 12, [])
    assert all(Path(result[name]).is_file() for name in ("sheet", "page"))
    again = json.loads(run(*command, "--seed", 5, "--out", tmp_path / "b")[1])
    assert again["teachers"] == result["teachers"]


def test_a_constant_mask_is_a_warning(toy: ToySet, tmp_path: Path, run: Callable[..., Any]) -> None:
    teacher = settings_file(masks(tmp_path, factor=0), tmp_path / "teacher.yaml")
    code, out, _ = run("teach", "check", toy.val, "--teacher", teacher, "--out", tmp_path / "check")
    assert code == 0
    (warning,) = json.loads(out)["warnings"]
    assert "masks.onnx: its masks show no person in 100% of the 12 frames" in warning


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["teach"], "required: human|scene|check (see kinet teach --help)"),
        (["teach", "animal"], "invalid choice: 'animal'"),
        (["teach", "human"], "required: CONFIG (see kinet teach human --help)"),
        (["teach", "check", "m.csv"], "required: --teacher (see kinet teach check --help)"),
        (
            ["teach", "check", "m.csv", "--teacher", "t", "--views", "3"],
            "unknown argument '--views' (see kinet teach check",
        ),
        (["teach", "check", "m.csv", "--teacher", "t"], "m.csv: cannot be read"),
        (["teach", "check", "MANIFEST", "--teacher", "t.yaml"], "t.yaml: no such config"),
        (["teach", "check", "MANIFEST", "--teacher", "t.onnx"], "t.onnx: cannot read this teacher"),
        (["teach", "check", "MANIFEST", "--teacher", "t", "--clips", "0"], "--clips 0: give 1 or more"),
        (["teach", "check", "MANIFEST", "--teacher", "t", "--frames", "0"], "--frames 0: give 1 or more"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_wrong_use(toy: ToySet, run: Callable[..., Any], arguments: list[str], line: str) -> None:
    code, out, err = run(*(str(toy.val) if argument == "MANIFEST" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert line in err


def test_unknown_settings_name_the_nearest(toy: ToySet, tmp_path: Path, run: Callable[..., Any]) -> None:
    teacher = settings_file({"path": "t.onnx", "scal": "unit"}, tmp_path / "t.yaml")
    code, _, err = run("teach", "check", toy.val, "--teacher", teacher)
    assert code == 2
    assert "t.yaml: unknown key 'scal'; nearest is 'scale'" in err
    code, _, err = run("teach", "check", toy.val, "--teacher", settings_file({"task": "human"}, teacher))
    assert code == 2
    assert "path" in err
