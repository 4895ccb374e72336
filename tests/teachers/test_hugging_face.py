"""Hugging Face teachers, from tiny random models saved to a folder: their labels, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from kinet.errors import InputError
from kinet.teachers.hugging_face import pixels_in, size_in
from kinet.teachers.labelling import open_teacher
from kinet.teachers.teacher import MASK_SIZE, best_scenes, masks_from_probabilities, stretch
from kinet.teachers.teacher_config import TeacherConfig
from kinet.teachers.torch_teacher import TorchTeacher

transformers = pytest.importorskip("transformers", reason="the extra huggingface is not installed")

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
STEPS = {"do_resize": True, "size": {"height": 64, "width": 96}, "image_mean": MEAN, "image_std": STD}


def save(folder: Path, model: Any, steps: dict[str, Any] | None = None) -> str:
    """A folder as ``save_pretrained`` makes it, with a preprocessor_config.json; the teacher's path."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim > 1:
            tensor.mul_(4)  # random models say nearly the same of every frame
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(STEPS if steps is None else steps))
    return f"hf:{folder}"


@pytest.fixture
def parser(tmp_path: Path) -> tuple[str, Any]:
    """A SegFormer of five things, the third being people."""
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1] * 4,
        num_attention_heads=[1] * 4,
        decoder_hidden_size=16,
        num_labels=5,
    )
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    return save(tmp_path / "parser", model), model


@pytest.fixture
def scene(tmp_path: Path) -> tuple[str, Any]:
    torch.manual_seed(1)
    names = {0: "sea", 1: "wood", 2: "sand"}
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3, id2label=names
    )
    model = transformers.ResNetForImageClassification(config).eval()
    return save(tmp_path / "scene", model), model


def prepared(frame: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (stretch(frame, (64, 96)).float() / 255 - mean) / std


def test_a_mask_is_all_but_background_or_the_sum_of_persons(parser: tuple[str, Any]) -> None:
    path, model = parser
    with torch.no_grad():
        logits = torch.cat([model(prepared(frame)).logits for frame in FRAMES])
        share = functional.interpolate(logits, size=(64, 96), mode="bilinear").softmax(1).numpy()
    for settings, expected in (
        ({}, 1 - share[:, 0]),
        ({"background": 4}, 1 - share[:, 4]),
        ({"person": (2,)}, share[:, 2]),
        ({"person": (2, 3)}, share[:, 2] + share[:, 3]),
    ):
        teacher = open_teacher(TeacherConfig(path, **settings))
        assert (teacher.task, teacher.classes, teacher.class_names) == ("human", 2, ("background", "person"))
        given = teacher.label_frames(FRAMES)
        assert given.shape == (3, *MASK_SIZE)
        assert np.abs(given.astype(int) - masks_from_probabilities(expected)).max() <= 17


def test_scenes_have_the_models_names(scene: tuple[str, Any]) -> None:
    path, model = scene
    teacher = open_teacher(TeacherConfig(path, best=2))
    assert (teacher.task, teacher.class_names) == ("scene", ("sea", "wood", "sand"))
    with torch.no_grad():
        rows = torch.cat([model(prepared(frame)).logits for frame in FRAMES]).log_softmax(1)
    classes, scores = teacher.label_frames(FRAMES)
    expected, expected_scores = best_scenes(rows.numpy(), 2)
    assert np.array_equal(classes, expected)
    np.testing.assert_allclose(scores, expected_scores, atol=2e-3)


def test_fingerprint_is_of_weights_and_settings(parser: tuple[str, Any], tmp_path: Path) -> None:
    path, _ = parser
    first = TorchTeacher(TeacherConfig(path)).fingerprint

    def copy(name: str, change: Callable[[Path], object]) -> TeacherConfig:
        folder = Path(shutil.copytree(path.removeprefix("hf:"), tmp_path / name))
        change(folder)
        return TeacherConfig(f"hf:{folder}")

    same = [
        TeacherConfig(path, threads=2, task="human"),
        copy("moved", edit(transformers_version="5.99", _name_or_path="elsewhere")),
    ]
    changed = [
        TeacherConfig(path, background=1),
        TeacherConfig(path, person=(2,)),
        TeacherConfig(path, input_size=(64, 64)),
        TeacherConfig(path, batch=2),
        TeacherConfig(path, precision="bf16-mixed"),
        copy("pixels", lambda f: (f / "preprocessor_config.json").write_text(json.dumps(STEPS | {"image_mean": STD}))),
        copy("function", edit(hidden_act="relu")),
        copy("weights", other_weights),
    ]
    assert {TorchTeacher(config).fingerprint for config in same} == {first}
    assert len({TorchTeacher(config).fingerprint for config in changed} | {first}) == 1 + len(changed)


def test_sizes_of_preprocessors() -> None:
    for steps, size in (
        ({"size": 512}, (512, 512)),
        ({"size": {"height": 3, "width": 4}}, (3, 4)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 220}}, (256, 256)),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 220}, "do_center_crop": True},
            (224, 220),
        ),
        ({"size": 256, "crop_size": 224, "do_center_crop": True}, (224, 224)),
    ):
        assert size_in(steps, "m") == size
    for steps in ({}, {"size": {"longest_edge": 3}}, {"size": "big"}):
        with pytest.raises(InputError, match="set this teacher's input_size"):
            size_in(steps, "m")


def test_colours_of_preprocessors() -> None:
    normalised = pixels_in({"image_mean": MEAN, "image_std": STD}, "m")
    assert (normalised.factor, normalised.mean, normalised.std) == (1 / 255, tuple(MEAN), tuple(STD))
    plain = pixels_in({"do_normalize": False, "image_mean": MEAN, "do_flip_channel_order": True}, "m")
    assert (plain.mean, plain.std, plain.bgr) == ((0, 0, 0), (1, 1, 1), True)
    assert pixels_in({"do_rescale": False}, "m").factor == 1
    for steps in ({"do_normalize": True}, {"image_mean": [0.5], "image_std": [0.5]}, {"rescale_offset": True}):
        with pytest.raises(InputError, match="its preprocessor"):
            pixels_in(steps, "m")


def edit(**changes: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | changes))

    return write


def pickled(folder: Path) -> None:
    """Weights in a file that could hold code."""
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state["decode_head.classifier.bias"] += 1
    save_file(state, folder / "model.safetensors")


def without_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in state.items() if "classifier" not in key}, folder / "model.safetensors")


def own_code(folder: Path) -> None:
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    edit(model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForSemanticSegmentation": "mine.M"})(folder)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (pickled, {}, "no file named model.safetensors"),
        (without_head, {}, r"has no weights of decode_head\.classifier\.\w+ \(2 such\)"),
        (own_code, {}, "transformers cannot open it"),
        (lambda f: (f / "preprocessor_config.json").unlink(), {}, "transformers cannot open it"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no"), {}, "transformers cannot open it"),
        (edit(architectures=["SegformerModel"]), {}, "its architecture is SegformerModel; a teacher's name ends in"),
        (None, {"task": "scene"}, "is a human teacher, not a scene teacher"),
        (None, {"background": 5}, "background 5 is none of the 5 channels"),
        (None, {"person": (2, 7)}, "person 7 is none of the 5 channels"),
        (None, {"person": ()}, "person is empty"),
        (None, {"trust": True}, "trust is no setting of a model of Hugging Face"),
        (None, {"scale": "unit"}, "scale is no setting of a model of Hugging Face"),
        (None, {"batch": 0}, "batch to 1 or more"),
    ],
)
def test_wrong_teachers_are_refused_in_one_line(
    parser: tuple[str, Any], change: Callable[[Path], None] | None, settings: dict[str, Any], message: str
) -> None:
    path, _ = parser
    folder = Path(path.removeprefix("hf:"))
    if change is not None:
        change(folder)
    with pytest.raises(InputError, match=message) as error:
        open_teacher(replace(TeacherConfig(path), **settings))
    assert "\n" not in str(error.value)
    assert path in str(error.value)
    assert not (folder / "ran").exists()


def test_without_transformers(parser: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'kinet-action\[huggingface\]'"):
        open_teacher(TeacherConfig(parser[0]))
