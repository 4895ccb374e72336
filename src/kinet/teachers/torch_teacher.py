"""A teacher that PyTorch runs: a checkpoint of ``kinet teach``, a published network of Places365, or one of others."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from kinet.data.parsing_set import fit
from kinet.data.sources.places365 import places365
from kinet.errors import InputError
from kinet.models.pspnet import PSPNet, PSPOutput
from kinet.models.zoo import BACKBONES, check_fit, load_plain, renewed_state, state_in
from kinet.teachers.foreign_net import ForeignNet
from kinet.teachers.hugging_face import open_hugging_face
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
from kinet.teachers.teacher_checkpoint import SceneNet, TeacherCheckpoint, load_network, teacher_in
from kinet.teachers.teacher_config import (
    HUB_ONLY,
    HUGGING_FACE,
    ONNX_ONLY,
    TORCH_HUB,
    TeacherConfig,
    check_numbers,
    check_parts,
    default_threads,
    refuse_settings,
    scene_names,
)
from kinet.teachers.torch_hub import open_torch_hub

PLACES365_FILES = "http://places2.csail.mit.edu/models_places365/"
"""The published networks, such as resnet152_places365.pth.tar. No checksum of them is published, so they are not
fetched from here: the user gives a file, whose tensors are in the fingerprint."""
SCENE_SIZE = (224, 224)


TeacherNetwork = PSPNet | SceneNet | ForeignNet


class TorchTeacher:
    """A ``Teacher`` from a PyTorch checkpoint, Hugging Face or torch.hub.

    Parsers of ``kinet teach`` see frames at the frame's own shape, or stretched to ``input_size`` where the config
    says so; other networks see them stretched to their input size. With ``batch: 1`` and ``precision: 32-true``, the
    defaults, frames go through one at a time, each on one thread, so that a label depends on nothing but its frame:
    neither on a batch nor on the number of threads. Creating one reads the file and labels a grey frame.

    Raises InputError: no file, a damaged one, one that holds code or another network, settings of other kinds of
    teachers, a class count that differs from the class names, an output that is not one label a frame, no such device.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self.config = config
        self.name = config.path if is_foreign(config.path) else Path(config.path).name
        check_numbers(config, self.name)
        if config.device == "cuda" and not torch.cuda.is_available():
            raise InputError(f"{self.name}: device cuda is not available here; leave this teacher's device out")
        self.network: TeacherNetwork
        self.network, names, self.trained_size = open_network(config)
        self.task: Task = task_of(self.network)
        if config.task is not None and config.task != self.task:
            raise InputError(f"{self.name} is a {self.task} teacher, not a {config.task} teacher")
        self.network.eval().to(config.device)
        self.fingerprint = self._fingerprint()
        self.classes = 2 if self.task == "human" else len(names)
        self.class_names = (
            ("background", "person")
            if self.task == "human"
            else scene_names(config, self.classes, self.name, known=names)
        )
        with one_thread():
            self._run(np.full((1, 64, 64, 3), 128, np.uint8))

    def label_frames(self, frames: Frames) -> Masks | tuple[SceneClasses, SceneScores]:
        """See ``Teacher.label_frames``. Raises InputError where the network's values are not finite."""
        check_frames(frames)
        if self.config.device == "cuda" and torch.utils.data.get_worker_info() is not None:
            raise InputError(f"{self.name}: a teacher on cuda can't label in loading processes; set data.workers: 0")
        batches = [frames[start : start + self.config.batch] for start in range(0, len(frames), self.config.batch)]
        threads = min(self.config.threads or default_threads(), len(batches))
        with one_thread():
            if threads > 1 and self.config.device == "cpu":
                with ThreadPoolExecutor(threads) as pool:
                    outputs = list(pool.map(self._run, batches))
            else:
                outputs = [self._run(batch) for batch in batches]
        if self.task == "human":
            return np.concatenate(outputs) if outputs else np.zeros((0, *MASK_SIZE), np.uint8)
        rows = np.concatenate(outputs) if outputs else np.zeros((0, self.classes), np.float32)
        return best_scenes(rows, self.config.best)

    @torch.inference_mode()
    def _run(self, frames: Frames) -> npt.NDArray[Any]:
        """Frames (B, H, W, 3): masks (B, 64, 85) uint8, or log-probabilities (B, classes) float32."""
        size = self._input_size(frames.shape[1], frames.shape[2])
        images = torch.cat([stretch(frame, size) for frame in frames]).to(self.config.device)
        with torch.autocast(self.config.device, torch.bfloat16, enabled=self.config.precision == "bf16-mixed"):
            output = self.network(images)
        logits = (output.parts if isinstance(output, PSPOutput) else output).float()
        if self.task == "scene":
            return self._finite(logits.log_softmax(1))
        check_parts(self.config, logits.shape[1], self.name, "its output")
        parts = self._finite(functional.interpolate(logits, size=size, mode="bilinear"))
        maps = [
            merge_parts(p, logits=True, background=self.config.background, person=self.config.person) for p in parts
        ]
        return masks_from_probabilities(np.stack(maps))

    def _input_size(self, height: int, width: int) -> tuple[int, int]:
        """The size that frames of this one are stretched to."""
        size = self.config.input_size or self.trained_size
        if isinstance(self.network, PSPNet):
            return fit(self.config.input_size or (height, width), size, self.network.output_stride)
        return size

    def _finite(self, values: Tensor) -> npt.NDArray[np.float32]:
        if not values.isfinite().all():
            raise InputError(f"{self.name}: its output has values that are not finite")
        array: npt.NDArray[np.float32] = values.cpu().numpy()
        return array

    def _fingerprint(self) -> str:
        """Over tensors and settings, not the file: a checkpoint without its training state is the same teacher."""
        settings = {
            "format": LABEL_FORMAT,
            "network": type(self.network).__name__,
            "output_stride": getattr(self.network, "output_stride", None),
            "size": self.config.input_size or self.trained_size,
            "stretched": self.config.input_size is not None,
            "best": self.config.best,
            "device": self.config.device,
        }
        if self.config.batch > 1 or self.config.precision != "32-true":
            settings |= {"batch": self.config.batch, "precision": self.config.precision}
        if isinstance(self.network, ForeignNet):
            settings |= {"background": self.config.background, "person": self.config.person} | self.network.facts
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            if not name.endswith(".num_batches_tracked"):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def is_foreign(path: str) -> bool:
    """Whether a teacher's ``path`` is no file but a model of Hugging Face or torch.hub."""
    return path.startswith((HUGGING_FACE, TORCH_HUB))


def task_of(network: TeacherNetwork) -> Task:
    if isinstance(network, ForeignNet):
        return network.task
    return "human" if isinstance(network, PSPNet) else "scene"


def open_network(config: TeacherConfig) -> tuple[TeacherNetwork, tuple[str, ...], tuple[int, int]]:
    """The network of ``config.path``, its classes' names, and the input size that it was trained on."""
    if config.path.startswith(HUGGING_FACE):
        return open_hugging_face(config)
    if config.path.startswith(TORCH_HUB):
        return open_torch_hub(config)
    path = Path(config.path).expanduser()
    refuse_settings(config, ONNX_ONLY, f"{path.name}: {{}} is a setting of ONNX files, this is a PyTorch checkpoint")
    refuse_settings(config, HUB_ONLY, f"{path.name}: {{}} is a setting of torch.hub, this is a PyTorch checkpoint")
    if not path.is_file():
        where = f"; the published ones are at {PLACES365_FILES}" if known_network(path) else ""
        raise InputError(f"{path}: cannot read this teacher: no such file{where}")
    content = load_plain(path, str(path))
    checkpoint = teacher_in(content, path)
    if checkpoint is not None:
        if config.network is not None:
            raise InputError(f"{path.name}: says itself which network it is of; leave network out")
        return of_checkpoint(checkpoint, str(path))
    if isinstance(content, Mapping) and "kinet_format" in content:
        raise InputError(f"{path}: a checkpoint of an action network, no teacher; kinet teach trains teachers")
    return of_state(config.network or known_network(path), state_in(content, path), path)


def of_checkpoint(
    checkpoint: TeacherCheckpoint, source: str
) -> tuple[PSPNet | SceneNet, tuple[str, ...], tuple[int, int]]:
    network = load_network(checkpoint, source)
    return network, tuple(checkpoint.class_names), checkpoint.config.data.input_size


def of_state(
    name: str | None, state: dict[str, Tensor], path: Path
) -> tuple[SceneNet, tuple[str, ...], tuple[int, int]]:
    """A backbone with a scene classifier, of as many scenes as the last matrix has rows; 365 are those of Places365."""
    if name not in BACKBONES:
        raise InputError(f"{path.name}: set this teacher's network to its backbone: one of {', '.join(BACKBONES)}")
    state = renewed_state(name, state)
    matrices = [tensor for tensor in state.values() if tensor.ndim == 2]
    if not matrices:
        raise InputError(f"{path}: has no classifier, so it is no scene teacher")
    classes = len(matrices[-1])
    network = BACKBONES[name](classes=classes)
    check_fit(state, network, f"{path} is no {name}")
    network.load_state_dict(state, strict=False)  # BN's batch counters may be missing
    names = tuple(s.name for s in places365()) if classes == len(places365()) else tuple(map(str, range(classes)))
    return SceneNet(network), names, SCENE_SIZE


def known_network(path: Path) -> str | None:
    """``resnet152`` for the published ``resnet152_places365.pth.tar``."""
    found = re.match(r"(\w+?)_places365\.", path.name)
    return found[1] if found and found[1] in BACKBONES else None


@contextmanager
def one_thread() -> Iterator[None]:
    """Within torch's operators, here and in threads that begin here: how many share a sum may change its last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
