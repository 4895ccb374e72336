"""torch.hub teachers, from repositories in a folder: no code runs without trust, and labels are the network's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinet.errors import InputError
from kinet.teachers.labelling import open_teacher
from kinet.teachers.teacher import MASK_SIZE
from kinet.teachers.teacher_config import TeacherConfig
from kinet.teachers.torch_hub import parted
from kinet.teachers.torch_teacher import TorchTeacher

HUBCONF = """
import pathlib
import torch
pathlib.Path(__file__).with_name("ran").touch()
dependencies = ["torch"]

class Parser(torch.nn.Module):
    '''Logits of four things: nothing, and one for each colour.'''
    def __init__(self, gain):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(float(gain)))
    def forward(self, x):
        logits = torch.cat([torch.zeros_like(x[:, :1]), self.gain * x], 1)
        return {"out": logits, "aux": -logits, "note": "text"}

class Scenes(torch.nn.Module):
    def forward(self, x):
        return 9 * x.mean((2, 3))

def parser(gain=1.0):
    print("loading")
    return Parser(gain)

def scenes():
    return Scenes()

def number():
    return 3

def features():
    return torch.nn.Identity(), 1

def flat():
    return torch.nn.Flatten(0)

def broken():
    raise KeyError("something")

def tuples():
    class Two(torch.nn.Module):
        def forward(self, x):
            return x, x
    return Two()

def picky():
    return torch.nn.Conv2d(4, 2, 1)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF)
    return folder


def config(repository: Path, entry: str, **settings: Any) -> TeacherConfig:
    common: dict[str, Any] = {"scale": "symmetric", "input_size": (16, 16), "trust": True}
    return TeacherConfig(f"hub:{repository}:{entry}", **(common | settings))


def colours() -> np.ndarray:
    """Frames all red, green and blue."""
    return np.broadcast_to(255 * np.eye(3, dtype=np.uint8)[:, None, None], (3, 20, 30, 3)).copy()


def test_no_code_runs_without_trust(repository: Path) -> None:
    with pytest.raises(InputError, match=r"refused, torch\.hub would run this repository's code") as error:
        open_teacher(config(repository, "parser", trust=False))
    assert "\n" not in str(error.value)
    assert not (repository / "ran").exists()
    open_teacher(config(repository, "parser"))
    assert (repository / "ran").exists()


def test_masks(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Symmetric red is (1, -1, -1), and nothing has the logit 0."""
    odds = np.exp([0, 1, -1, -1])
    share = odds / odds.sum()
    for settings, expected in (
        ({}, [1 - share[0]] * 3),
        ({"person": (1, 3)}, [share[1] + share[3], 2 * share[2], share[1] + share[3]]),
        ({"person": (1,), "channels": "bgr"}, [share[2], share[2], share[1]]),
        (
            {"person": (1,), "arguments": {"gain": -1}},
            [1 / (1 + np.e + 2 * np.e**2), None, None],
        ),
        ({"output": "aux", "background": 0}, None),
    ):
        teacher = open_teacher(config(repository, "parser", **settings))
        assert teacher.task == "human"
        masks = teacher.label_frames(colours())
        assert masks.shape == (3, *MASK_SIZE)
        for mask, probability in zip(masks, expected or (), strict=bool(expected)):
            assert probability is None or np.abs(mask / 255 - probability).max() < 1 / 30 + 1e-3
    assert capsys.readouterr().out == ""  # what repositories print goes to stderr


def test_scenes(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    teacher = open_teacher(config(repository, "scenes", class_names=str(tmp_path / "names.txt")))
    assert (teacher.task, teacher.class_names) == ("scene", ("red", "green", "blue"))
    classes, scores = teacher.label_frames(colours())
    assert classes[:, 0].tolist() == [0, 1, 2]
    assert (scores[:, 0] > -0.01).all()


def test_fingerprint_is_of_code_weights_and_settings(repository: Path) -> None:
    def fingerprint(**settings: Any) -> str:
        return TorchTeacher(config(repository, "parser", **settings)).fingerprint

    first = fingerprint()
    moved = repository.with_name("moved")
    moved.mkdir()
    (moved / "hubconf.py").write_text(HUBCONF)
    assert {fingerprint(), TorchTeacher(config(moved, "parser")).fingerprint} == {first}
    changed = [
        fingerprint(scale="unit"),
        fingerprint(channels="bgr"),
        fingerprint(output="aux"),
        fingerprint(person=(1,)),
        fingerprint(input_size=(16, 18)),
        fingerprint(arguments={"gain": 2}),
    ]
    (repository / "more.py").write_text("x = 1")
    changed.append(fingerprint())
    assert len({first, *changed}) == 1 + len(changed)


def test_repositories_on_github_name_a_ref() -> None:
    assert parted("hub:pytorch/vision:v0.10.0:deeplabv3_resnet50") == ("pytorch/vision:v0.10.0", "deeplabv3_resnet50")
    for path in ("hub:pytorch/vision:fcn", "hub:vision:v1:fcn", "hub:fcn", "hub:/none:fcn", "hub:pytorch/vision:v1:"):
        with pytest.raises(InputError, match="REF is a tag or a branch"):
            parted(path)


@pytest.mark.parametrize(
    ("entry", "settings", "message"),
    [
        ("parser", {"scale": None}, "set this teacher's scale: unit, symmetric, imagenet, byte"),
        ("parser", {"input_size": None}, r"set this teacher's input_size: \[height, width\]"),
        ("parser", {"network": "resnet18"}, "network is no setting of a torch.hub model"),
        ("parser", {"output": "none"}, "has no output none, but out, aux, note"),
        ("parser", {"output": "note"}, "its output is a str, not a tensor of scores"),
        ("parser", {"person": (4,)}, "person 4 is none of the 4 channels"),
        ("parser", {"arguments": {"depth": 3}}, "torch.hub cannot load it .TypeError"),
        ("parser", {"task": "scene"}, r"should be \(1, classes\), it is \(1, 4, 16, 16\)"),
        ("scenes", {"task": "human"}, r"should be \(1, classes, h, w\), it is \(1, 3\)"),
        ("flat", {}, r"should be \(1, classes\) or \(1, classes, h, w\), it is \(768,\)"),
        ("number", {}, "gives a int, not a network"),
        ("features", {}, "gives a tuple, not a network"),
        ("broken", {}, "torch.hub cannot load it .KeyError: 'something'"),
        ("missing", {}, "torch.hub cannot load it .RuntimeError"),
        ("tuples", {}, "its output is a tuple, not a tensor of scores"),
        ("picky", {}, r"fails on an input of \(1, 3, 16, 16\): RuntimeError"),
    ],
)
def test_wrong_teachers_are_refused_in_one_line(
    repository: Path, entry: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        open_teacher(config(repository, entry, **settings))
    assert "\n" not in str(error.value)
    assert f"hub:{repository}:{entry}" in str(error.value)


def test_batches_and_bf16_give_nearly_the_same_labels(repository: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), np.uint8)
    exact = TorchTeacher(config(repository, "parser")).label_frames(frames)
    for settings in ({"batch": 2}, {"batch": 8}, {"batch": 2, "precision": "bf16-mixed"}):
        given = TorchTeacher(config(repository, "parser", **settings)).label_frames(frames)
        assert np.abs(given.astype(int) - exact).max() <= 17
