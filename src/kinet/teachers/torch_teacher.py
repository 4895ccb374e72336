"""A teacher that is a PyTorch checkpoint: of ``kinet teach``, or a published network of Places365."""

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
from kinet.models.pspnet import PSPNet
from kinet.models.zoo import BACKBONES, check_fit, load_plain, renewed_state, state_in
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
from kinet.teachers.teacher_config import ONNX_ONLY, TeacherConfig, default_threads, refuse_settings, scene_names

PLACES365_FILES = "http://places2.csail.mit.edu/models_places365/"
"""The published networks, such as resnet152_places365.pth.tar. No checksum of them is published, so they are not
fetched from here: the user gives a file, whose tensors are in the fingerprint."""
SCENE_SIZE = (224, 224)


class TorchTeacher:
    """A ``Teacher`` from a PyTorch checkpoint.

    Scene networks see frames stretched to their input size, parsers see them at the frame's own shape, or stretched
    to ``input_size`` where the config says so. Frames go through one at a time, each on one thread, in float32, so
    that a label depends on nothing but its frame: neither on a batch nor on the number of threads. Creating one reads
    the file and labels a grey frame.

    Raises InputError: no file, a damaged one, one that holds code or another network, settings of ONNX files, a class
    count that differs from the class names, no such device.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self.config = config
        self.path = Path(config.path).expanduser()
        self.name = self.path.name
        refuse_settings(
            config, ONNX_ONLY, f"{self.name}: {{}} is a setting of ONNX files, this is a PyTorch checkpoint"
        )
        if config.best < 1 or config.threads < 0:
            raise InputError(f"{self.name}: set best to 1 or more and threads to 0 or more")
        if config.device == "cuda" and not torch.cuda.is_available():
            raise InputError(f"{self.name}: device cuda is not available here; leave this teacher's device out")
        self.input_size: tuple[int, int] | None
        self.network: PSPNet | SceneNet
        self.network, names, trained_size = open_network(config, self.path)
        self.task: Task = "human" if isinstance(self.network, PSPNet) else "scene"
        if config.task is not None and config.task != self.task:
            raise InputError(f"{self.name} is a {self.task} teacher, not a {config.task} teacher")
        self.trained_size = trained_size
        self.network.eval().to(config.device)
        self.fingerprint = self._fingerprint()
        self.classes = 2 if self.task == "human" else len(names)
        self.class_names = (
            ("background", "person")
            if self.task == "human"
            else scene_names(config, self.classes, self.name, known=names)
        )
        with one_thread():
            self._run(np.full((64, 64, 3), 128, np.uint8))

    def label_frames(self, frames: Frames) -> Masks | tuple[SceneClasses, SceneScores]:
        """See ``Teacher.label_frames``. Raises InputError where the network's values are not finite."""
        check_frames(frames)
        if self.config.device == "cuda" and torch.utils.data.get_worker_info() is not None:
            raise InputError(f"{self.name}: a teacher on cuda can't label in loading processes; set data.workers: 0")
        threads = min(self.config.threads or default_threads(), len(frames))
        with one_thread():
            if threads > 1 and self.config.device == "cpu":
                with ThreadPoolExecutor(threads) as pool:
                    outputs = list(pool.map(self._run, frames))
            else:
                outputs = [self._run(frame) for frame in frames]
        if self.task == "human":
            return np.concatenate(outputs) if outputs else np.zeros((0, *MASK_SIZE), np.uint8)
        rows = np.stack(outputs) if outputs else np.zeros((0, self.classes), np.float32)
        return best_scenes(rows, self.config.best)

    @torch.inference_mode()
    def _run(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """One frame (H, W, 3): its mask (1, 64, 85) uint8, or its log-probabilities (classes,) float32."""
        image = self._prepare(frame).to(self.config.device)
        if isinstance(self.network, PSPNet):
            logits = self.network(image).parts
            enlarged = functional.interpolate(logits, size=(image.shape[2], image.shape[3]), mode="bilinear")[0]
            return masks_from_probabilities(merge_parts(self._finite(enlarged), logits=True)[None])
        return self._finite(self.network(image).log_softmax(1)[0])

    def _prepare(self, frame: npt.NDArray[np.uint8]) -> Tensor:
        size = self.config.input_size or self.trained_size
        if isinstance(self.network, PSPNet):
            stride = self.network.output_stride
            shape = self.config.input_size or (frame.shape[0], frame.shape[1])
            size = fit(shape, size, stride)
        return stretch(frame, size)

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
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            if not name.endswith(".num_batches_tracked"):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def open_network(config: TeacherConfig, path: Path) -> tuple[PSPNet | SceneNet, tuple[str, ...], tuple[int, int]]:
    """The network of a file, its classes' names, and the input size that it was trained on."""
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
