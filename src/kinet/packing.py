"""``kinet pack``: clips into a pack, then their teachers' labels, then all of it read back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kinet.config import TeachersConfig, load_config
from kinet.data.manifest import read_manifest
from kinet.data.pack import Packs
from kinet.data.pack_codec import PackSettings
from kinet.data.pack_verify import verify_pack
from kinet.data.pack_writer import pack_clips
from kinet.errors import InputError
from kinet.teachers.cache import FillReport
from kinet.teachers.labelling import open_teachers
from kinet.teachers.packed_labels import packed_cache
from kinet.teachers.teacher import Task, Teacher
from kinet.teachers.teacher_config import TeacherConfig, default_threads


@dataclass(frozen=True)
class PackOptions:
    """What ``kinet pack`` can be told besides how frames are stored."""

    root: Path | None = None
    """What the manifest's paths are relative to. Default: its folder."""
    human: str | None = None
    """A human teacher's file, or the config of a training that names it."""
    scene: str | None = None
    """As ``human``, of the scene teacher."""
    shard_mb: float = 256
    """Megabytes (10^6 bytes) after which a new shard begins."""
    workers: int | None = None
    """Encoding processes. Default: one a core."""
    verify: bool = False


def run_pack(manifest: Path, folder: Path, settings: PackSettings, options: PackOptions) -> dict[str, Any]:
    """Pack what ``folder`` lacks of the manifest's clips, label what is not labelled, and verify if asked to.

    Returns what was done, for the command's line. Raises InputError as ``pack_clips``, ``LabelCache.fill`` and
    ``verify_pack`` do, and on wrong options or teachers, before anything is packed.
    """
    if options.shard_mb <= 0:
        raise InputError(f"--shard-mb {options.shard_mb}: give megabytes above 0")
    workers = default_threads() if options.workers is None else options.workers
    if workers < 1:
        raise InputError(f"--workers {workers}: give 1 or more")
    clips = read_manifest(manifest, root=options.root)
    human, scene = open_named_teachers(options)
    report = pack_clips(clips, folder, settings, shard_bytes=int(options.shard_mb * 1e6), workers=workers)
    result: dict[str, Any] = {"pack": str(folder)} | asdict(report)
    if human is not None or scene is not None:
        result["labels"] = summary(packed_cache(Packs([folder]), 0, human, scene).fill(clips))
    if options.verify:
        result["verified_shards"] = verify_pack(folder)
    return result


def summary(report: FillReport) -> dict[str, Any]:
    """A ``FillReport`` as ``kinet pack`` prints it; clips that are not in the pack are not counted again."""
    values = {"labelled": report.labelled, "frames": report.frames, "kept": report.kept, "damaged": report.damaged}
    return values | {"seconds": round(report.seconds, 1)}


def open_named_teachers(options: PackOptions) -> tuple[Teacher | None, Teacher | None]:
    """The teachers that ``--human`` and ``--scene`` name. Raises InputError."""
    named: dict[Task, str | None] = {"human": options.human, "scene": options.scene}
    configs = {task: named_config(name, task) for task, name in named.items() if name is not None}
    teachers = TeachersConfig(human=configs.get("human"), scene=configs.get("scene"))
    return open_teachers(teachers, list(configs))


def named_config(name: str, task: Task) -> TeacherConfig:
    """The settings of a teacher from a training's config, or none but the path of a teacher's file."""
    if Path(name).suffix not in (".yaml", ".yml"):
        return TeacherConfig(path=name)
    teachers = load_config(Path(name)).teachers
    config = teachers.human if task == "human" else teachers.scene
    if config is None:
        raise InputError(f"--{task} {name}: this config names no teachers.{task}")
    return config
