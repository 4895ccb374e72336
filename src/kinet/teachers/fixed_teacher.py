"""The teachers of fixed branches, from their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from kinet.config import Config, ModelConfig, TrunkConfig
from kinet.errors import InputError
from kinet.models.fixed_branch import TeacherTrunk
from kinet.models.pspnet import PSPNet
from kinet.teachers.labelling import named_teacher
from kinet.teachers.teacher_checkpoint import SceneNet
from kinet.teachers.teacher_config import ONNX_ONLY, TORCH_SUFFIXES, TeacherConfig, refuse_settings
from kinet.teachers.torch_teacher import TorchTeacher


def open_fixed_teachers(
    config: Config, given: Mapping[str, nn.Module] | None = None
) -> tuple[ModelConfig, dict[str, nn.Module]]:
    """The networks that the config's fixed branches take features from, by task; none where branches learn.

    Args:
        given: networks of one's own, which need no file.

    Returns:
        ``config.model`` that says what the files' networks are, so that a checkpoint needs no file; and the networks.

    Raises:
        InputError: a branch without a teacher, a file that can't be used, or another network than the config says.
    """
    networks = dict(given or {})
    if config.model.auxiliary_branches == "learned":
        if networks:
            raise InputError("model.auxiliary_branches: networks handed over as teachers need it to be fixed")
        return config.model, {}
    trunks = config.model.fixed_trunks
    for task in config.model.auxiliaries:
        if task in networks:
            continue
        trunk = open_trunk(task, named_teacher(config.teachers, task))
        said: TrunkConfig | None = getattr(trunks, task)
        if said is not None and said != trunk.config:
            raise InputError(
                f"model.fixed_trunks.{task}: says {told(said)}, teachers.{task} is {told(trunk.config)}; leave it out"
            )
        trunks = replace(trunks, **{task: trunk.config})
        networks[task] = trunk
    return replace(config.model, fixed_trunks=trunks), networks


def open_trunk(task: str, config: TeacherConfig) -> TeacherTrunk:
    """The feature layers of a teacher's file, with their weights. Raises InputError."""
    path = Path(config.path)
    if path.suffix.lower() not in TORCH_SUFFIXES:
        raise InputError(
            f"teachers.{task}: {config.path}: fixed branches need a network that names its feature stages, as an "
            f"ONNX file does not; take a checkpoint of kinet teach {task}"
            + (" or of Places365" if task == "scene" else "")
        )
    refuse_settings(
        config,
        (*ONNX_ONLY, "input_size"),
        f"teachers.{task}: {path.name}: {{}} has no part in fixed branches, which see the action branch's crops",
    )
    teacher = TorchTeacher(config)
    if teacher.task != task:
        raise InputError(f"teachers.{task}: {teacher.name} is a teacher of the task {teacher.task}")
    assert isinstance(teacher.network, PSPNet | SceneNet)
    trunk = TeacherTrunk(teacher.network.trunk)
    for name, block in teacher.network.feature_blocks().items():
        trunk.blocks[name].load_state_dict(block.state_dict())
    return trunk


def told(trunk: TrunkConfig) -> str:
    """For messages."""
    return f"{trunk.backbone} at stride {trunk.output_stride}"
