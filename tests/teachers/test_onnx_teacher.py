"""ONNX teachers: what goes into the network, what is read from it, and what is refused."""

from __future__ import annotations

import builtins
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kinet.config import load_config
from kinet.data.video import open_clip
from kinet.errors import InputError
from kinet.teachers.onnx_teacher import OnnxTeacher, prepare
from kinet.teachers.teacher import MASK_SIZE
from kinet.teachers.teacher_config import TeacherConfig, read_class_names

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (5, 30, 41, 3), np.uint8)
SCENE_WEIGHTS = np.array([[4.0, 0, 0, -2], [0, 4, 0, 1], [0, 0, 4, 1]], np.float32)  # (3 colours, 4 classes)


def save(
    path: Path,
    nodes: list[Any],
    input_shape: list[Any],
    *outputs: tuple[str, list[Any]],
    weights: dict[str, np.ndarray] | None = None,
    kind: int = TensorProto.FLOAT,
) -> str:
    """Write a network of one input ``x`` and the named outputs."""
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("x", kind, input_shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return str(path)


def mean_mask(path: Path, size: int = 16, frames: Any = "n") -> str:
    """The mask is the mean of the three channels: NCHW in, (n, 1, h, w) out."""
    node = helper.make_node("ReduceMean", ["x"], ["mask"], axes=[1], keepdims=1)
    return save(path, [node], [frames, 3, size, size], ("mask", [frames, 1, size, size]))


def parser_logits(path: Path, layout: str = "NCHW") -> str:
    """Logits of three channels, which are the three colours: the input itself."""
    shape: list[Any] = ["n", 3, 16, 16] if layout == "NCHW" else ["n", 16, 16, 3]
    return save(path, [helper.make_node("Identity", ["x"], ["parts"])], shape, ("parts", shape))


def linear_scene(path: Path, scale: float = 1.0) -> str:
    """Scene logits are SCENE_WEIGHTS times the mean colour."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["colour"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["colour", "w"], ["logits"]),
    ]
    weights = {"w": SCENE_WEIGHTS * np.float32(scale)}
    return save(path, nodes, ["n", 3, 8, 8], ("logits", ["n", 4]), weights=weights)


def mask_config(path: str, **settings: Any) -> TeacherConfig:
    return replace(TeacherConfig(path, "human", "unit", "probability"), **settings)


def scene_config(path: str, **settings: Any) -> TeacherConfig:
    return replace(TeacherConfig(path, "scene", "unit", "logit"), **settings)


def triangle_resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased bilinear resizing of (H, W, 3) in float64: a triangle as wide as the step, cut at the border."""
    for axis, out in enumerate(size):
        length = image.shape[axis]
        step = max(length / out, 1.0)
        centres = (np.arange(out) + 0.5) * length / out
        distances = np.abs(np.arange(length)[None] + 0.5 - centres[:, None]) / step
        weights = np.clip(1 - distances, 0, None)
        weights /= weights.sum(1, keepdims=True)
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return image


@pytest.mark.parametrize("size", [(16, 16), (30, 41), (64, 50)])
@pytest.mark.parametrize("scale", ["unit", "symmetric", "imagenet", "byte"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_input_against_numpy(size: tuple[int, int], scale: Any, channels: Any, layout: Any) -> None:
    config = TeacherConfig("", scale=scale, input_size=size, channels=channels, layout=layout)
    given = prepare(FRAMES[0], config)
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    offset, width = {"unit": (0, 255), "symmetric": (127.5, 127.5), "imagenet": (mean, std), "byte": (0, 1)}[scale]
    pixels = triangle_resize(FRAMES[0].astype(np.float64), size)
    expected = (pixels - offset) / width
    if channels == "bgr":
        expected = expected[:, :, [2, 1, 0]]
    if layout == "NCHW":
        expected = np.moveaxis(expected, 2, 0)
    assert given.dtype == np.float32
    assert given.shape == (1, *expected.shape)
    step = 1 / np.min(width)  # resizing in uint8 rounds to whole grey levels
    assert np.abs(given[0] - expected).max() <= (1e-6 if size == (30, 41) else 1.01 * step)


def test_human_mask_against_numpy(tmp_path: Path) -> None:
    teacher = OnnxTeacher(mask_config(mean_mask(tmp_path / "m.onnx", size=64)))
    masks = teacher.label_frames(FRAMES)
    assert teacher.task == "human"
    assert teacher.classes == 2
    assert teacher.class_names == ("background", "person")
    assert masks.shape == (5, *MASK_SIZE)
    for frame, mask in zip(FRAMES, masks, strict=True):
        probability = triangle_resize(frame / 255.0, (64, 64)).mean(2, keepdims=True)
        expected = 255 * triangle_resize(probability, MASK_SIZE)[..., 0]
        assert np.abs(mask - expected).max() <= 8.5 + 1.1


def test_scene_against_numpy(tmp_path: Path) -> None:
    teacher = OnnxTeacher(scene_config(linear_scene(tmp_path / "s.onnx", scale=5), best=3))
    classes, scores = teacher.label_frames(FRAMES)
    assert teacher.classes == 4
    assert classes.shape == scores.shape == (5, 3)
    colours = np.stack([prepare(frame, teacher.config)[0].mean((1, 2)) for frame in FRAMES])
    logits = 5 * colours @ SCENE_WEIGHTS
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert np.array_equal(classes, np.argsort(-logs, 1)[:, :3])
    assert np.allclose(scores, np.take_along_axis(logs, classes.astype(np.int64), 1), atol=1e-2)


def test_scene_probabilities_give_the_same_labels_as_logits(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["colour"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["colour", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["p"], axis=1),
    ]
    path = save(tmp_path / "p.onnx", nodes, ["n", 3, 8, 8], ("p", ["n", 4]), weights={"w": SCENE_WEIGHTS})
    by_logits = OnnxTeacher(scene_config(linear_scene(tmp_path / "s.onnx"))).label_frames(FRAMES)
    by_probability = OnnxTeacher(scene_config(path, activation="probability")).label_frames(FRAMES)
    assert np.array_equal(by_logits[0], by_probability[0])
    assert np.allclose(by_logits[1], by_probability[1], atol=2e-3)


def test_person_is_the_sum_of_chosen_channels(tmp_path: Path) -> None:
    config = TeacherConfig(parser_logits(tmp_path / "parts.onnx"), "human", "symmetric", "logit", person=(0, 2))
    frame = np.zeros((1, 16, 16, 3), np.uint8)
    frame[..., 2] = 255  # logits of -1, -1 and 1
    odds = np.exp(2.0)
    teacher = OnnxTeacher(config)
    assert np.abs(teacher.label_frames(frame) / 255 - (1 + odds) / (2 + odds)).max() < 1 / 30 + 1e-3
    assert teacher.fingerprint != OnnxTeacher(replace(config, person=None)).fingerprint


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("background", [0, 2])
def test_person_is_all_but_background(tmp_path: Path, layout: str, background: int) -> None:
    path = parser_logits(tmp_path / "parts.onnx", layout)
    config = TeacherConfig(path, "human", "symmetric", "logit", background=background)
    frame = np.zeros((1, 16, 16, 3), np.uint8)
    frame[0, :, :8, background] = 255  # background on the left, another part on the right
    frame[0, :, 8:, 1] = 255
    mask = OnnxTeacher(config).label_frames(frame)[0] / 255
    odds = np.exp(2.0)  # logits of 1 and of -1, twice
    assert np.abs(mask[:, :30] - (1 - odds / (odds + 2))).max() < 1 / 30 + 1e-3
    assert np.abs(mask[:, -30:] - (1 - 1 / (odds + 2))).max() < 1 / 30 + 1e-3


def test_one_channel_of_logits_passes_a_sigmoid(tmp_path: Path) -> None:
    path = mean_mask(tmp_path / "m.onnx")
    frames = np.stack([np.full((9, 9, 3), value, np.uint8) for value in (0, 128, 255)])
    masks = OnnxTeacher(mask_config(path, scale="symmetric", activation="logit")).label_frames(frames)
    expected = 255 / (1 + np.exp(-np.array([-1, 0.004, 1])))
    assert np.abs(masks[:, 30, 40] - expected).max() <= 8.5


def test_masks_without_a_channel_axis(tmp_path: Path) -> None:
    node = helper.make_node("ReduceMean", ["x"], ["mask"], axes=[1], keepdims=0)
    path = save(tmp_path / "nhw.onnx", [node], ["n", 3, 16, 16], ("mask", ["n", 16, 16]))
    masks = OnnxTeacher(mask_config(path, mask_layout="NHW")).label_frames(FRAMES)
    with_axis = OnnxTeacher(mask_config(mean_mask(tmp_path / "m.onnx"))).label_frames(FRAMES)
    assert np.array_equal(masks, with_axis)
    with pytest.raises(InputError, match=r"NCHW \(see mask_layout\), it is \(1, 16, 16\)"):
        OnnxTeacher(mask_config(path))


def test_the_output_is_chosen_by_name(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mask"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["one", "mask"], ["inverse"]),
    ]
    shape = ["n", 1, 16, 16]
    path = save(
        tmp_path / "two.onnx",
        nodes,
        ["n", 3, 16, 16],
        ("mask", shape),
        ("inverse", shape),
        weights={"one": np.ones((), np.float32)},
    )
    frames = np.full((1, 8, 8, 3), 255, np.uint8)
    assert (OnnxTeacher(mask_config(path)).label_frames(frames) == 255).all()
    assert (OnnxTeacher(mask_config(path, output="inverse")).label_frames(frames) == 0).all()
    with pytest.raises(InputError, match="no output 'invers'; the nearest is 'inverse' of mask, inverse"):
        OnnxTeacher(mask_config(path, output="invers"))


def test_other_input_types_and_free_sizes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "range"], ["unit"]),
        helper.make_node("ReduceMean", ["unit"], ["mask"], axes=[3], keepdims=1),
    ]
    path = save(
        tmp_path / "bytes.onnx",
        nodes,
        [1, "h", "w", 3],
        ("mask", [1, "h", "w", 1]),
        weights={"range": np.full((), 255, np.float32)},
        kind=TensorProto.UINT8,
    )
    with pytest.raises(InputError, match="set this teacher's input_size"):
        OnnxTeacher(mask_config(path, scale="byte"))
    with pytest.raises(InputError, match="goes with scale byte, not unit"):
        OnnxTeacher(mask_config(path, input_size=(16, 16)))
    teacher = OnnxTeacher(mask_config(path, scale="byte", input_size=(16, 16)))
    assert teacher.config.layout == "NHWC"
    expected = OnnxTeacher(mask_config(mean_mask(tmp_path / "m.onnx"))).label_frames(FRAMES)
    assert np.array_equal(teacher.label_frames(FRAMES), expected)


def test_a_label_depends_on_its_frame_alone(tmp_path: Path) -> None:
    path = linear_scene(tmp_path / "s.onnx", scale=50)
    together = OnnxTeacher(scene_config(path, threads=1)).label_frames(FRAMES)
    teacher = OnnxTeacher(scene_config(path, threads=3))
    for classes, scores in (
        teacher.label_frames(FRAMES),
        tuple(np.concatenate(part) for part in zip(*(teacher.label_frames(f[None]) for f in FRAMES), strict=True)),
    ):
        assert np.array_equal(classes, together[0])
        assert np.array_equal(scores, together[1])


def test_no_frames_give_no_labels(tmp_path: Path) -> None:
    human = OnnxTeacher(mask_config(mean_mask(tmp_path / "m.onnx")))
    scene = OnnxTeacher(scene_config(linear_scene(tmp_path / "s.onnx")))
    assert human.label_frames(FRAMES[:0]).shape == (0, *MASK_SIZE)
    assert scene.label_frames(FRAMES[:0])[0].shape == (0, 4)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_give_the_same_labels(tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {method}")
    teacher = OnnxTeacher(scene_config(linear_scene(tmp_path / "s.onnx"), threads=2))
    here = teacher.label_frames(FRAMES)
    with multiprocessing.get_context(method).Pool(1) as pool:
        there = pool.apply_async(teacher.label_frames, (FRAMES,)).get(timeout=120)
    assert np.array_equal(here[0], there[0])
    assert np.array_equal(here[1], there[1])


def test_a_file_that_changed_under_a_copy_is_refused(tmp_path: Path) -> None:
    path = linear_scene(tmp_path / "s.onnx")
    copy = pickle.dumps(OnnxTeacher(scene_config(path)))
    linear_scene(tmp_path / "s.onnx", scale=2)
    with pytest.raises(InputError, match="was changed while it was in use"):
        pickle.loads(copy).label_frames(FRAMES)


def test_fingerprint_is_of_file_and_settings(tmp_path: Path) -> None:
    path = mean_mask(tmp_path / "m.onnx")
    first = OnnxTeacher(mask_config(path)).fingerprint
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(Path(path).read_bytes())
    same = [mask_config(str(moved)), mask_config(path, threads=2), mask_config(path, input_size=(16, 16))]
    changed = [
        mask_config(path, scale="symmetric", activation="logit"),
        mask_config(path, channels="bgr"),
        mask_config(path, align_corners=True),
        mask_config(mean_mask(tmp_path / "other.onnx", size=17)),
    ]
    assert {OnnxTeacher(config).fingerprint for config in same} == {first}
    assert len({OnnxTeacher(config).fingerprint for config in changed} | {first}) == 5
    assert len(first) == 64


def test_config_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("teachers:\n  human:\n    path: p.onnx\n    scale: unit\n    input_size: [256, 340]\n")
    config = load_config(file, ["--teachers.human.background", "1"]).teachers.human
    assert config == TeacherConfig("p.onnx", scale="unit", input_size=(256, 340), background=1)


def empty(path: Path) -> str:
    path.touch()
    return str(path)


def corrupt(path: Path) -> str:
    data = Path(mean_mask(path)).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return str(path)


def external(path: Path) -> str:
    mean_mask(path)
    weights = np.ones((3, 3, 1, 1), np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["mask"])]
    save(path, nodes, ["n", 3, 8, 8], ("mask", ["n", 3, 8, 8]), weights={"w": weights})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return str(path)


def not_finite(path: Path) -> str:
    node = helper.make_node("Log", ["x"], ["mask"])  # of -1 where symmetric
    return save(path, [node], ["n", 3, 8, 8], ("mask", ["n", 3, 8, 8]))


def unknown_operator(path: Path) -> str:
    node = helper.make_node("Nonsense", ["x"], ["mask"], domain="nowhere")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", 1, 8, 8])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return str(path)


@pytest.mark.parametrize(
    ("write", "settings", "message"),
    [
        (lambda p: str(p), {}, "cannot read this teacher: No such file"),
        (lambda p: str(p.parent), {}, "cannot read this teacher: Is a directory"),
        (empty, {}, "not an ONNX file"),
        (corrupt, {}, "not an ONNX file"),
        (external, {}, "weights lie in other files"),
        (unknown_operator, {}, "onnxruntime cannot open this teacher"),
        (mean_mask, {"task": None}, "set this teacher's task: human or scene"),
        (mean_mask, {"scale": None}, "set this teacher's scale: unit, symmetric, imagenet or byte"),
        (mean_mask, {"activation": None}, "set this teacher's activation: probability or logit"),
        (mean_mask, {"input_size": (32, 32)}, r"does not take input_size \[32, 32\]"),
        (mean_mask, {"layout": "NHWC"}, "not NHWC with three channels"),
        (mean_mask, {"scale": "byte"}, r"outside \[0, 1\]; set this teacher's activation: logit"),
        (mean_mask, {"mask_layout": "NHW"}, r"NHW \(see mask_layout\), it is \(1, 1, 16, 16\)"),
        (mean_mask, {"task": "scene"}, r"should be \(1, classes\) for one frame, it is \(1, 1, 16, 16\)"),
        (mean_mask, {"best": 0}, "best to 1 or more"),
        (lambda p: mean_mask(p, frames=4), {}, "the first for one frame or any number"),
        (linear_scene, {}, r"should be the mask of one frame, NCHW .* it is \(1, 4\)"),
        (linear_scene, {"task": "scene"}, "does not sum to 1; set this teacher's activation: logit"),
        (parser_logits, {"background": 3}, "background 3 is none of the 3 channels of 'parts'"),
        (parser_logits, {"person": (0, 3)}, "person 3 is none of the 3 channels of 'parts'"),
        (mean_mask, {"network": "resnet18"}, "network is a setting of PyTorch checkpoints"),
        (mean_mask, {"batch": 4}, "batch is a setting of PyTorch checkpoints"),
        (mean_mask, {"trust": True}, "trust is a setting of torch.hub"),
        (not_finite, {"scale": "symmetric", "activation": "logit"}, "values that are not finite"),
    ],
)
def test_wrong_teachers_are_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], str], settings: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "teacher.onnx")
    black = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(InputError, match=message) as error:
        OnnxTeacher(mask_config(path, **settings)).label_frames(black)
    assert "\n" not in str(error.value)
    assert Path(path).name in str(error.value)


def test_an_input_that_the_network_cannot_take(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["mask"])]
    path = save(
        tmp_path / "add.onnx",
        nodes,
        ["n", 3, "h", "w"],
        ("mask", ["n", 3, "h", "w"]),
        weights={"w": np.zeros((1, 3, 8, 8), np.float32)},
    )
    with pytest.raises(InputError, match=r"fails on an input of \(1, 3, 9, 9\) \(see input_size"):
        OnnxTeacher(mask_config(path, input_size=(9, 9)))


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_onnxruntime(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("onnxruntime"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    path = mean_mask(tmp_path / "m.onnx")
    monkeypatch.setattr(builtins, "__import__", no_onnxruntime)
    with pytest.raises(InputError, match=r"pip install 'kinet-action\[onnx\]'"):
        OnnxTeacher(mask_config(path))


def test_class_names(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("/a/airfield 0\n/b/bar 1\n/s/shop/indoor 2\nbeach\n\n", encoding="utf-8")
    assert read_class_names(names) == ("airfield", "bar", "shop/indoor", "beach")
    path = linear_scene(tmp_path / "s.onnx")
    assert OnnxTeacher(scene_config(path, class_names=str(names))).class_names[3] == "beach"
    assert OnnxTeacher(scene_config(path)).class_names == ("0", "1", "2", "3")
    names.write_text("one\ntwo\n")
    with pytest.raises(InputError, match=r"2 names, but s\.onnx has 4 classes"):
        OnnxTeacher(scene_config(path, class_names=str(names)))
    with pytest.raises(InputError, match="cannot read the class names: No such file"):
        OnnxTeacher(scene_config(path, class_names=str(tmp_path / "none.txt")))
    names.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        OnnxTeacher(scene_config(path, class_names=str(names)))


def first_frames(folder: Path, clips: int) -> np.ndarray:
    return np.concatenate([open_clip(clip).read([0]) for clip in sorted(folder.iterdir())[:clips]])


def test_person_teachers_agree_on_real_frames(shared: Path) -> None:
    frames = first_frames(shared / "data/hmdb25/golf", 12)
    prisma = OnnxTeacher(TeacherConfig(str(shared / "weights/person_prisma.onnx"))).label_frames(frames)
    bodypix = OnnxTeacher(TeacherConfig(str(shared / "weights/parts_bodypix_s16.onnx"))).label_frames(frames)
    people, others = prisma > 127, bodypix > 127
    assert 0.03 < people.mean() < 0.3
    overlap = (people & others).sum() / (people | others).sum()
    flipped = (people & others[:, :, ::-1]).sum() / (people | others[:, :, ::-1]).sum()
    assert overlap > 0.4
    assert overlap > 1.5 * flipped


def test_scene_teacher_knows_golf_courses(shared: Path) -> None:
    weights = shared / "weights"
    config = TeacherConfig(
        str(weights / "scene_squeezenet_places365.onnx"), class_names=str(weights / "categories_places365.txt")
    )
    teacher = OnnxTeacher(config)
    classes, scores = teacher.label_frames(first_frames(shared / "data/hmdb25/golf", 20))
    assert teacher.classes == 365
    assert np.mean(classes[:, 0] == teacher.class_names.index("golf_course")) >= 0.8
    assert (np.diff(scores.astype(np.float32), axis=1) <= 0).all()
    with pytest.raises(InputError, match="is a scene teacher, not a human teacher"):
        OnnxTeacher(replace(config, task="human"))
