"""From the teachers' settings to the pseudo labels of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kinet.config import TeachersConfig
from kinet.data.manifest import Manifest
from kinet.data.pack import Packs
from kinet.errors import InputError
from kinet.teachers.cache import CachedLabels, LabelCache
from kinet.teachers.onnx_teacher import OnnxTeacher
from kinet.teachers.packed_labels import find_packed_labels
from kinet.teachers.teacher import LabelSource, Teacher, TeacherLabels
from kinet.teachers.teacher_config import TORCH_SUFFIXES, TeacherConfig
from kinet.teachers.torch_teacher import TorchTeacher


@dataclass(frozen=True)
class Labelling:
    """What a training needs of its teachers."""

    source: LabelSource | None
    """Gives the labels; None trains without pseudo labels."""
    scene_names: tuple[str, ...]
    """The scene teacher's classes; empty without one."""


def label_clips(
    config: TeachersConfig, auxiliaries: Sequence[str], clips: Manifest, packs: Packs | None = None
) -> Labelling:
    """Open the teachers of the auxiliary branches and, for the cache, label what is not labelled yet.

    Clips in ``packs`` have their labels there, and none are made.

    Raises:
        InputError: a branch without a teacher, a teacher that can't be used, or packs without its labels.
    """
    human, scene = open_teachers(config, auxiliaries)
    scene_names = scene.class_names if scene is not None else ()
    if human is None and scene is None:
        return Labelling(None, ())
    if config.labels == "on_the_fly":
        return Labelling(TeacherLabels(human, scene), scene_names)
    if packs is not None:
        return Labelling(find_packed_labels(packs, human, scene, clips), scene_names)
    return fill_cache(Path(config.cache), human, scene, clips)


def open_teachers(config: TeachersConfig, auxiliaries: Sequence[str]) -> tuple[Teacher | None, Teacher | None]:
    """The human and the scene teacher, None where there is no such branch. Raises InputError as ``label_clips``."""
    teachers: dict[str, Teacher] = {}
    for task in auxiliaries:
        teacher_config = config.human if task == "human" else config.scene
        if teacher_config is None:
            raise InputError(
                f"teachers.{task}: the {task} branch needs one; name it, or take {task} out of model.auxiliaries"
            )
        teacher = open_teacher(teacher_config)
        if teacher.task != task:
            raise InputError(f"teachers.{task}: {teacher.name} is a teacher of the task {teacher.task}")
        teachers[task] = teacher
    return teachers.get("human"), teachers.get("scene")


def open_teacher(config: TeacherConfig) -> Teacher:
    """A PyTorch checkpoint if the file's name ends like one, else an ONNX file. Raises InputError."""
    if Path(config.path).suffix.lower() in TORCH_SUFFIXES:
        return TorchTeacher(config)
    return OnnxTeacher(config)


def fill_cache(folder: Path, human: Teacher | None, scene: Teacher | None, clips: Manifest) -> Labelling:
    """Label every frame of ``clips`` that ``folder`` has no labels of."""
    cache = LabelCache(folder, human, scene)
    cache.fill(clips)
    return Labelling(CachedLabels(cache), scene.class_names if scene is not None else ())
