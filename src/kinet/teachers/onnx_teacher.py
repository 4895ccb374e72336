"""A teacher that is an ONNX file, run by onnxruntime on the CPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from kinet.errors import InputError
from kinet.teachers.teacher import (
    LABEL_FORMAT,
    MASK_SIZE,
    Frames,
    Masks,
    SceneClasses,
    SceneScores,
    Task,
    best_scenes,
    check_frames,
    masks_from_probabilities,
    merge_parts,
    stretch,
)
from kinet.teachers.teacher_config import (
    HUB_ONLY,
    TORCH_ONLY,
    TeacherConfig,
    check_numbers,
    check_parts,
    default_threads,
    refuse_settings,
    scene_names,
)

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)

SCALES: dict[str, Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]] = {
    "unit": lambda rgb: rgb / np.float32(255),
    "symmetric": lambda rgb: rgb / np.float32(127.5) - np.float32(1),
    "imagenet": lambda rgb: (rgb / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD,
    "byte": lambda rgb: rgb,
}
"""From (..., 3) float32 RGB in 0..255 to what the network takes."""

INPUT_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


KNOWN_FILES: dict[str, dict[str, Any]] = {
    # person_prisma.onnx, MIT
    "cc7357e7300ed5e41ddb73b51910eed900b4dbbe255305011aeb088f6ddc8bd4": {
        "task": "human",
        "scale": "unit",
        "activation": "probability",
    },
    # parts_bodypix_s16.onnx, Apache-2.0: its sides are 16 k + 1, its masks k + 1 with the corners aligned
    "f2e51d18eec8e3c9ef3f196ea0245db1d86529161d19e14466ad4ebc5e6ee242": {
        "task": "human",
        "scale": "symmetric",
        "activation": "logit",
        "input_size": (257, 337),
        "output": "segments",
        "align_corners": True,
    },
    # scene_squeezenet_places365.onnx
    "3fec358f8a471c13771939c6bfb223c917fd78744b8efce053d401be1e7518f2": {
        "task": "scene",
        "scale": "unit",
        "activation": "logit",
    },
}
"""Settings of files by their SHA-256; they fill the fields that a config leaves out."""

NOT_LABELS = ("path", "class_names", "threads", *TORCH_ONLY, *HUB_ONLY)
"""Settings that do not change a label and so stay out of the fingerprint."""


class OnnxTeacher:
    """A ``Teacher`` from an ONNX file.

    Frames are stretched to the network's input (bilinear, antialiased, in uint8) and go through it one at a
    time, so that a label depends on nothing but its frame. Creating one reads the file and labels a grey frame,
    which checks the settings. A copy sent to another process holds the path and opens the file there.

    Raises InputError: no file, not an ONNX file, weights outside the file, settings missing or against the
    file's shapes, an output that is not one label a frame, onnxruntime not installed.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self.path = Path(config.path).expanduser()
        self.name = self.path.name
        refuse_settings(
            config, TORCH_ONLY, f"{self.name}: {{}} is a setting of PyTorch checkpoints, this is an ONNX file"
        )
        refuse_settings(config, HUB_ONLY, f"{self.name}: {{}} is a setting of torch.hub, this is an ONNX file")
        model = read_model(self.path)
        self.file_hash = hashlib.sha256(model).hexdigest()
        self.session: Any = open_session(model, self.name)
        self.config = complete(config, self.file_hash, self.session, self.name)
        assert self.config.task is not None
        self.task: Task = self.config.task
        self.fingerprint = fingerprint(self.config, self.file_hash)
        grey = self._run(np.full((32, 32, 3), 128, np.uint8))
        self.classes = 2 if self.task == "human" else len(grey)
        self.class_names = (
            ("background", "person") if self.task == "human" else scene_names(config, self.classes, self.name)
        )

    def label_frames(self, frames: Frames) -> Masks | tuple[SceneClasses, SceneScores]:
        """See ``Teacher.label_frames``. Raises InputError where the network's values are not finite."""
        check_frames(frames)
        if self.session is None:
            self._reopen()
        threads = min(self.config.threads or default_threads(), len(frames))
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                outputs = list(pool.map(self._run, frames))
        else:
            outputs = [self._run(frame) for frame in frames]
        if self.task == "human":
            maps = np.stack(outputs) if outputs else np.zeros((0, *MASK_SIZE), np.float32)
            return masks_from_probabilities(maps, bool(self.config.align_corners))
        rows = np.stack(outputs) if outputs else np.zeros((0, self.classes), np.float32)
        return best_scenes(rows, self.config.best)

    def _run(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """One frame (H, W, 3): P(person) (h, w), or log-probabilities (classes,)."""
        image = prepare(frame, self.config).astype(INPUT_TYPES[self.session.get_inputs()[0].type])
        output = run_session(self.session, self.config, image, self.name)
        if not np.isfinite(output).all():
            raise InputError(f"{self.name}: output '{self.config.output}' has values that are not finite")
        read = person_probability if self.task == "human" else scene_log_probabilities
        return read(output.astype(np.float32), self.config, self.name)

    def _reopen(self) -> None:
        model = read_model(self.path)
        if hashlib.sha256(model).hexdigest() != self.file_hash:
            raise InputError(f"{self.path}: this teacher's file was changed while it was in use; start again")
        self.session = open_session(model, self.name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "session": None}


def read_model(path: Path) -> bytes:
    """The file's bytes; InputError where there are none or the weights lie in other files."""
    try:
        model = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read this teacher: {error.strerror}") from error
    # The key of an external tensor's file (a StringStringEntryProto), which the fingerprint would not cover.
    if b"\n\x08location\x12" in model:
        raise InputError(
            f"{path}: this teacher's weights lie in other files; save it as one file:"
            " onnx.save(onnx.load(path), new_path)"
        )
    return model


def import_onnxruntime(name: str) -> tuple[Any, Any]:
    """onnxruntime and the module of its exceptions."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors
    except ImportError as error:
        raise InputError(f"{name}: an ONNX teacher needs onnxruntime: pip install 'kinet-action[onnx]'") from error
    return onnxruntime, errors


def open_session(model: bytes, name: str) -> Any:
    """An onnxruntime session of one thread; it has bytes, not a path, so that it opens no other file."""
    onnxruntime, errors = import_onnxruntime(name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # errors come as exceptions
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except (errors.InvalidProtobuf, errors.InvalidArgument, errors.NoModel) as error:
        raise InputError(f"{name}: this is not an ONNX file: {one_line(error)}") from error
    except (errors.Fail, errors.InvalidGraph, errors.NotImplemented, errors.RuntimeException) as error:
        raise InputError(f"{name}: onnxruntime cannot open this teacher: {one_line(error)}") from error


def run_session(session: Any, config: TeacherConfig, image: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """The config's output for ``image``."""
    _, errors = import_onnxruntime(name)
    try:
        output: npt.NDArray[Any] = session.run([config.output], {session.get_inputs()[0].name: image})[0]
    except (errors.Fail, errors.InvalidArgument, errors.NotImplemented, errors.RuntimeException) as error:
        raise InputError(
            f"{name}: fails on an input of {image.shape} (see input_size and layout): {one_line(error)}"
        ) from error
    return output


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def complete(config: TeacherConfig, file_hash: str, session: Any, name: str) -> TeacherConfig:
    """``config`` with every field set: its own value, the known file's, or what the file's shapes say."""
    known = KNOWN_FILES.get(file_hash, {})
    if config.task is not None and known.get("task", config.task) != config.task:
        raise InputError(f"{name} is a {known['task']} teacher, not a {config.task} teacher")
    config = replace(config, **{key: value for key, value in known.items() if getattr(config, key) is None})
    for field, choices in (
        ("task", "human or scene"),
        ("scale", "unit, symmetric, imagenet or byte"),
        ("activation", "probability or logit"),
    ):
        if getattr(config, field) is None:
            raise InputError(f"{name}: set this teacher's {field}: {choices}")
    check_numbers(config, name)
    layout, input_size = complete_input(config, session.get_inputs(), name)
    outputs = [output.name for output in session.get_outputs()]
    output = config.output or outputs[0]
    if output not in outputs:
        nearest = get_close_matches(output, outputs, n=1, cutoff=0)[0]
        raise InputError(f"{name}: no output '{output}'; the nearest is '{nearest}' of {', '.join(outputs)}")
    return replace(
        config,
        layout=layout,
        input_size=input_size,
        output=output,
        mask_layout=config.mask_layout or layout,
        align_corners=bool(config.align_corners),
    )


def complete_input(
    config: TeacherConfig, inputs: list[Any], name: str
) -> tuple[Literal["NCHW", "NHWC"], tuple[int, int]]:
    """The layout and the size (H, W) of the one input, after the config and the file's shape."""
    if len(inputs) != 1:
        names = ", ".join(model_input.name for model_input in inputs)
        raise InputError(f"{name}: a teacher has one input, this file has {len(inputs)}: {names}")
    shape, kind = inputs[0].shape, inputs[0].type
    what = f"{name}: input '{inputs[0].name}' is {shape} {kind}"
    if kind not in INPUT_TYPES:
        raise InputError(f"{what}; a teacher takes one of {', '.join(INPUT_TYPES)}")
    if kind == "tensor(uint8)" and config.scale != "byte":
        raise InputError(f"{what}, which goes with scale byte, not {config.scale}")
    if len(shape) != 4 or (isinstance(shape[0], int) and shape[0] != 1):
        raise InputError(f"{what}; a teacher takes four axes, the first for one frame or any number")
    layout = config.layout or ("NHWC" if shape[3] == 3 and shape[1] != 3 else "NCHW")
    channels, sides = (shape[1], shape[2:]) if layout == "NCHW" else (shape[3], shape[1:3])
    if isinstance(channels, int) and channels != 3:
        raise InputError(f"{what}, which is not {layout} with three channels; see layout")
    height, width = config.input_size or sides
    if not all(isinstance(side, int) and side > 0 for side in (height, width)):
        raise InputError(f"{what}; set this teacher's input_size: [height, width]")
    if any(isinstance(side, int) and side != wanted for side, wanted in zip(sides, (height, width), strict=True)):
        raise InputError(f"{what}, which does not take input_size [{height}, {width}]")
    return layout, (height, width)


def fingerprint(config: TeacherConfig, file_hash: str) -> str:
    """SHA-256 over the file and every completed setting that changes a label."""
    settings = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in NOT_LABELS}
    settings = {name: value for name, value in settings.items() if value is not None}
    text = json.dumps({"format": LABEL_FORMAT, "file": file_hash, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def prepare(frame: npt.NDArray[np.uint8], config: TeacherConfig) -> npt.NDArray[np.float32]:
    """A frame (H, W, 3) uint8 RGB as the network's input, (1, 3, h, w) or (1, h, w, 3)."""
    assert config.input_size is not None
    assert config.scale is not None
    image = stretch(frame, config.input_size)
    scaled = SCALES[config.scale](image.permute(0, 2, 3, 1).numpy().astype(np.float32))
    if config.channels == "bgr":
        scaled = scaled[..., ::-1]
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2) if config.layout == "NCHW" else scaled)


def person_probability(output: npt.NDArray[np.float32], config: TeacherConfig, name: str) -> npt.NDArray[np.float32]:
    """P(person) (h, w) from the output for one frame."""
    layout = config.mask_layout
    assert layout is not None
    if output.ndim != len(layout) or output.shape[0] != 1 or 0 in output.shape:
        raise InputError(
            f"{name}: output '{config.output}' should be the mask of one frame, {layout} (see mask_layout),"
            f" it is {output.shape}"
        )
    channels = {"NCHW": output[0], "NHWC": np.moveaxis(output[0], -1, 0), "NHW": output}[layout]
    check_parts(config, len(channels), name, f"'{config.output}'")
    if config.activation == "probability" and (channels.min() < -1e-3 or channels.max() > 1 + 1e-3):
        raise InputError(f"{name}: output '{config.output}' is outside [0, 1]; set this teacher's activation: logit")
    return merge_parts(
        channels, logits=config.activation == "logit", background=config.background, person=config.person
    )


def scene_log_probabilities(
    output: npt.NDArray[np.float32], config: TeacherConfig, name: str
) -> npt.NDArray[np.float32]:
    """Log-probabilities (classes,) from the output for one frame."""
    if output.ndim != 2 or output.shape[0] != 1 or output.shape[1] < 2:
        raise InputError(f"{name}: output '{config.output}' should be (1, classes) for one frame, it is {output.shape}")
    if config.activation == "logit":
        return torch.from_numpy(output[0]).log_softmax(0).numpy()
    if output.min() < -1e-3 or abs(output.sum() - 1) > 1e-2:
        raise InputError(f"{name}: output '{config.output}' does not sum to 1; set this teacher's activation: logit")
    return torch.from_numpy(output[0]).clamp(min=1e-12).log().numpy()
