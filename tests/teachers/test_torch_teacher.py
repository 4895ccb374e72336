"""PyTorch teachers: what their labels are, that a frame alone makes its label, and what is refused."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from kinet.config import load_config
from kinet.data.manifest import Clip
from kinet.errors import InputError
from kinet.models.zoo import BACKBONES
from kinet.teachers.cache import CachedLabels, LabelCache
from kinet.teachers.labelling import open_teacher
from kinet.teachers.teach_config import (
    HumanTeachConfig,
    ParserConfig,
    ParsingDataConfig,
    SceneDataConfig,
    SceneNetworkConfig,
    SceneTeachConfig,
)
from kinet.teachers.teacher import MASK_SIZE, best_scenes, masks_from_probabilities, merge_parts, stretch
from kinet.teachers.teacher_checkpoint import TeacherCheckpoint, build_network, load_network, load_teacher, save_teacher
from kinet.teachers.teacher_config import TeacherConfig
from kinet.teachers.torch_teacher import TorchTeacher

FRAMES = np.random.default_rng(0).integers(0, 256, (4, 50, 70, 3), np.uint8)


def lively(network: nn.Module, seed: int = 0) -> None:
    """Statistics as after a training, and scores that differ from frame to frame."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim in (2, 4):
            scale = (6 / tensor[0].numel()) ** 0.5
            tensor.copy_((torch.rand(tensor.shape, generator=generator) - 0.5) * scale)
        assert name


def parser(path: Path, classes: int = 2, seed: int = 0) -> str:
    """A checkpoint as ``kinet teach human`` writes it."""
    names = ["background", *(f"part_{number}" for number in range(1, classes))]
    config = HumanTeachConfig(
        network=ParserConfig("resnet10_narrow", "none", 8, 16), data=ParsingDataConfig(input_size=(64, 96))
    )
    network = build_network(config, classes)
    lively(network, seed)
    save_teacher(path, TeacherCheckpoint(config, names, network.state_dict(), {"epoch": 1}))
    return str(path)


def scene_net(path: Path) -> str:
    config = SceneTeachConfig(
        network=SceneNetworkConfig("resnet10_narrow", "none"), data=SceneDataConfig(input_size=(48, 64))
    )
    network = build_network(config, 12)
    lively(network)
    save_teacher(path, TeacherCheckpoint(config, [f"scene_{n}" for n in range(12)], network.state_dict(), {}))
    return str(path)


def published(path: Path, backbone: str = "resnet10_narrow", classes: int = 365) -> nn.Module:
    """A file like Places365's: a state dict of DataParallel in a dict of what its training script knew."""
    network = BACKBONES[backbone](classes=classes).eval()
    lively(network)
    state = {f"module.{key}": t for key, t in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save({"epoch": 90, "arch": backbone, "state_dict": state, "best_prec1": 54.6}, path)
    return network


def normalised(frame: np.ndarray, size: tuple[int, int]) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (stretch(frame, size).float() / 255 - mean) / std


def test_a_parsers_mask_is_what_is_not_background(tmp_path: Path) -> None:
    """Five parts or one: one less the background's share, at the frame's own shape just inside of the trained size."""
    for classes in (2, 6):
        path = parser(tmp_path / "parser.pt", classes)
        network = load_network(load_teacher(Path(path)), path).eval()
        with torch.no_grad():
            logits = network(stretch(FRAMES[1], (64, 88))).parts  # 50 x 70 scaled by 1.28 is 64 x 89.6
            share = functional.interpolate(logits, size=(64, 88), mode="bilinear").softmax(1)
        expected = masks_from_probabilities(share[:, 1:].sum(1).numpy())
        teacher = TorchTeacher(TeacherConfig(path))
        assert (teacher.task, teacher.classes, teacher.class_names) == ("human", 2, ("background", "person"))
        given = teacher.label_frames(FRAMES)
        assert given.shape == (4, *MASK_SIZE)
        assert np.abs(given[1].astype(int) - expected[0]).max() <= 17  # one level, where rounding is on the edge
        assert (given[1] == expected[0]).mean() > 0.99
        assert given.std() > 5


def test_parts_merge_alike_in_all_teachers(tmp_path: Path) -> None:
    """24 parts or 19: the same function for ONNX and PyTorch; any order of parts; a mask of one channel is itself."""
    logits = np.random.default_rng(1).normal(size=(25, 4, 5)).astype(np.float32)
    share = np.exp(logits) / np.exp(logits).sum(0)
    np.testing.assert_allclose(merge_parts(logits, logits=True), share[1:].sum(0), rtol=1e-4)
    moved = np.roll(logits, 3, axis=0)
    np.testing.assert_allclose(merge_parts(moved, logits=True, background=3), share[1:].sum(0), rtol=1e-4)
    np.testing.assert_array_equal(merge_parts(share, logits=False), 1 - share[0])
    np.testing.assert_allclose(merge_parts(logits[:1], logits=True), 1 / (1 + np.exp(-logits[0])), rtol=1e-5)


def test_published_places_file_is_read_with_its_prefixes(tmp_path: Path) -> None:
    network = published(tmp_path / "resnet18_places365.pth.tar", "resnet18")
    teacher = open_teacher(TeacherConfig(str(tmp_path / "resnet18_places365.pth.tar"), best=5))
    assert (teacher.task, teacher.classes) == ("scene", 365)
    assert (teacher.class_names[0], teacher.class_names[364]) == ("airfield", "zen_garden")
    classes, scores = teacher.label_frames(FRAMES)
    with torch.no_grad():
        rows = torch.cat([network(normalised(frame, (224, 224))) for frame in FRAMES]).log_softmax(1)
    expected, expected_scores = best_scenes(rows.numpy(), 5)
    assert np.array_equal(classes, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=2e-3, atol=2e-3)


def test_the_papers_scene_network_fits_its_file() -> None:
    """ResNet-152 with 365 classes has the published file's tensors: 60,192,808 parameters less 635 x 2049."""
    with torch.device("meta"):
        network = BACKBONES["resnet152"](classes=365)
    assert sum(p.numel() for p in network.parameters()) == 60_192_808 - 635 * 2049


def test_a_state_dict_under_another_name_says_its_network(tmp_path: Path) -> None:
    published(tmp_path / "mine.pt", classes=7)
    with pytest.raises(InputError, match="set this teacher's network to its backbone: one of resnet10_narrow"):
        TorchTeacher(TeacherConfig(str(tmp_path / "mine.pt")))
    teacher = TorchTeacher(TeacherConfig(str(tmp_path / "mine.pt"), network="resnet10_narrow", input_size=(64, 64)))
    assert teacher.class_names == tuple("0123456")
    assert teacher.label_frames(FRAMES)[0].shape == (4, 7)


@pytest.mark.parametrize("make", [parser, scene_net])
def test_a_label_depends_on_its_frame_alone(tmp_path: Path, make: Callable[[Path], str]) -> None:
    config = TeacherConfig(make(tmp_path / "t.pt"), threads=1)

    def parts(labels: Any) -> list[np.ndarray]:
        return list(labels) if isinstance(labels, tuple) else [labels]

    together = parts(TorchTeacher(config).label_frames(FRAMES))
    teacher = TorchTeacher(replace(config, threads=3))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        in_threads = parts(teacher.label_frames(FRAMES))
        singly = [parts(teacher.label_frames(frame[None])) for frame in FRAMES]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for index, expected in enumerate(together):
        assert np.array_equal(in_threads[index], expected)
        assert np.array_equal(np.concatenate([part[index] for part in singly]), expected)
    assert not np.array_equal(together[-1][0], together[-1][1])  # the frames do differ
    assert [len(part) for part in parts(teacher.label_frames(FRAMES[:0]))] == [0] * len(together)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_give_the_same_labels(tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {method}")
    teacher = TorchTeacher(TeacherConfig(scene_net(tmp_path / "t.pt"), threads=1))
    here = teacher.label_frames(FRAMES)
    with multiprocessing.get_context(method).Pool(1) as pool:
        there = pool.apply_async(teacher.label_frames, (FRAMES,)).get(timeout=120)
    assert np.array_equal(here[0], there[0])
    assert np.array_equal(here[1], there[1])


def test_cached_labels_are_those_made_in_a_loading_process(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(folder / f"{number}.png")
    clip = Clip(folder, 0, "clip")
    human = TorchTeacher(TeacherConfig(parser(tmp_path / "p.pt")))
    scene = TorchTeacher(TeacherConfig(scene_net(tmp_path / "s.pt")))
    cache = LabelCache(tmp_path / "labels", human, scene)
    assert cache.fill([clip]).frames == 4
    indices = np.array([3, 0])
    cached = CachedLabels(cache)
    kept = cached.labels(clip, indices, FRAMES[indices])
    with multiprocessing.get_context("fork").Pool(1) as pool:
        made = pool.apply_async(cached.teachers.labels, (clip, indices, FRAMES[indices])).get(timeout=120)
    assert cached.computed == 0
    for before, now in zip(astuple(kept), astuple(made), strict=True):
        assert np.array_equal(before, now)


def test_fingerprint_is_of_weights_and_settings(tmp_path: Path) -> None:
    path = parser(tmp_path / "p.pt")
    checkpoint = load_teacher(Path(path))
    checkpoint.training = {"optimizer": {}}
    save_teacher(tmp_path / "last.pt", checkpoint)
    first = TorchTeacher(TeacherConfig(path)).fingerprint
    same = [TeacherConfig(str(tmp_path / "last.pt")), TeacherConfig(path, threads=2), TeacherConfig(path, task="human")]
    changed = [
        TeacherConfig(path, input_size=(64, 96)),
        TeacherConfig(parser(tmp_path / "other.pt", seed=1)),
        TeacherConfig(scene_net(tmp_path / "scene.pt")),
    ]
    assert {TorchTeacher(config).fingerprint for config in same} == {first}
    assert len({TorchTeacher(config).fingerprint for config in changed} | {first}) == 4


@pytest.mark.parametrize("make", [parser, scene_net])
def test_batches_and_bf16_give_nearly_the_same_labels_kept_apart(tmp_path: Path, make: Callable[[Path], str]) -> None:
    config = TeacherConfig(make(tmp_path / "t.pt"))
    exact = TorchTeacher(config)
    fingerprints = {exact.fingerprint}
    for change in ({"batch": 3}, {"batch": 9}, {"precision": "bf16-mixed"}):
        teacher = TorchTeacher(replace(config, **change))
        fingerprints.add(teacher.fingerprint)
        given, expected = teacher.label_frames(FRAMES), exact.label_frames(FRAMES)
        loose = "precision" in change
        if isinstance(given, tuple):
            np.testing.assert_allclose(given[1], expected[1], rtol=0.05 if loose else 2e-3)
        else:
            assert np.abs(given.astype(int) - expected).max() <= (51 if loose else 17)
        assert (
            len(teacher.label_frames(FRAMES[:0])[0] if isinstance(given, tuple) else teacher.label_frames(FRAMES[:0]))
            == 0
        )
    assert len(fingerprints) == 4


def test_config_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("teachers:\n  scene:\n    path: resnet152_places365.pth.tar\n    network: resnet152\n")
    config = load_config(file).teachers.scene
    assert config == TeacherConfig("resnet152_places365.pth.tar", network="resnet152")


def test_the_files_name_tells_the_kind(tmp_path: Path) -> None:
    assert isinstance(open_teacher(TeacherConfig(parser(tmp_path / "p.pt"))), TorchTeacher)
    path = Path(parser(tmp_path / "q.pt")).rename(tmp_path / "q.onnx")
    with pytest.raises(InputError, match="this is not an ONNX file"):
        open_teacher(TeacherConfig(str(path)))


def holds_code(path: Path) -> str:
    class Code:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return eval, ("1",)

    torch.save({"kinet_teacher": 1, "task": Code()}, path)
    return str(path)


def truncated(path: Path) -> str:
    data = Path(parser(path)).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return str(path)


def edited(**changes: Any) -> Callable[[Path], str]:
    def write(path: Path) -> str:
        content = torch.load(parser(path), weights_only=True)
        torch.save({**content, **changes}, path)
        return str(path)

    return write


def other_weights(path: Path) -> str:
    return edited(model=BACKBONES["resnet10_narrow"]().state_dict())(path)


def not_finite(path: Path) -> str:
    content = torch.load(parser(path), weights_only=True)
    content["model"]["classify.4.bias"][0] = float("nan")
    torch.save(content, path)
    return str(path)


def kinet_checkpoint(path: Path) -> str:
    torch.save({"kinet_format": 1}, path)
    return str(path)


def no_classifier(path: Path) -> str:
    torch.save({"a": torch.zeros(3)}, path)
    return str(path)


def of_resnet18(path: Path) -> str:
    published(path, "resnet18", 5)
    return str(path)


@pytest.mark.parametrize(
    ("write", "settings", "message"),
    [
        (lambda p: str(p), {}, "cannot read this teacher: no such file"),
        (lambda p: str(p.with_name("resnet152_places365.pth.tar")), {}, "the published ones are at http://places2"),
        (holds_code, {}, r"refused, loading it would call"),
        (truncated, {}, "cannot be read"),
        (kinet_checkpoint, {}, "a checkpoint of an action network, no teacher"),
        (edited(kinet_teacher=9), {}, "a teacher of format 9, this kinet reads format 1"),
        (edited(task="music"), {}, "an incomplete teacher"),
        (other_weights, {}, "is not in the file"),
        (not_finite, {}, "values that are not finite"),
        (no_classifier, {"network": "resnet18"}, "no classifier"),
        (of_resnet18, {"network": "resnet50"}, "is no resnet50: "),
        (parser, {"network": "resnet18"}, "says itself which network it is of"),
        (parser, {"task": "scene"}, "is a human teacher, not a scene teacher"),
        (parser, {"layout": "NCHW"}, "layout is a setting of ONNX files"),
        (parser, {"background": 2}, "background is a setting of ONNX files"),
        (parser, {"best": 0}, "set best to 1 or more"),
        (parser, {"batch": 0}, "batch to 1 or more"),
        (parser, {"trust": True}, "trust is a setting of torch.hub"),
        (parser, {"person": (1,)}, "person is a setting of ONNX files"),
    ],
)
def test_wrong_teachers_are_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], str], settings: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "teacher.pt")
    with pytest.raises(InputError, match=message) as error:
        TorchTeacher(TeacherConfig(path, **settings))
    assert "\n" not in str(error.value)
    assert Path(path).name in str(error.value)


def test_as_many_names_as_classes(tmp_path: Path) -> None:
    path, names = scene_net(tmp_path / "s.pt"), tmp_path / "names.txt"
    assert TorchTeacher(TeacherConfig(path)).class_names[11] == "scene_11"
    names.write_text("one\ntwo\n")
    with pytest.raises(InputError, match=r"2 names, but s\.pt has 12 classes"):
        TorchTeacher(TeacherConfig(path, class_names=str(names)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_device_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device cuda is not available here"):
        TorchTeacher(TeacherConfig(parser(tmp_path / "p.pt"), device="cuda"))
