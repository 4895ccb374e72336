"""Labels in packs: those of the packed frames, enough to train and test on when everything else is gone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinet.config import TeachersConfig
from kinet.data.manifest import Manifest, read_manifest, write_manifest
from kinet.data.pack import Packs
from kinet.data.pack_codec import PackSettings
from kinet.data.pack_writer import pack_clips
from kinet.errors import InputError
from kinet.evaluation.protocol import Views
from kinet.evaluation.run_test import TestOptions as Options
from kinet.evaluation.run_test import run_test
from kinet.packing import PackOptions, run_pack
from kinet.teachers import labelling as labelling_module
from kinet.teachers.labelling import label_clips
from kinet.teachers.packed_labels import PackedLabels, packed_cache
from kinet.teachers.teacher import (
    Frames,
    Masks,
    SceneClasses,
    SceneScores,
    TeacherLabels,
    best_scenes,
    masks_from_probabilities,
)
from kinet.training.engine import train

ToySet = Any  # tests/conftest.py's, which tests cannot import
NO_CONFIG = TeachersConfig()


@dataclass
class HumanTeacher:
    """White is person. ``allowed``: how many frames it may still be shown."""

    task = "human"
    name = "people.onnx"
    fingerprint = "a" * 64
    classes = 2
    class_names = ("background", "person")
    allowed: float = np.inf

    def label_frames(self, frames: Frames) -> Masks:
        self.allowed -= len(frames)
        assert self.allowed >= 0
        return masks_from_probabilities(frames.min(axis=3).astype(np.float32) / 255)


class SceneTeacher(HumanTeacher):
    """The brightest colour is the scene."""

    task = "scene"
    name = "scenes.onnx"
    fingerprint = "b" * 64
    classes = 3
    class_names = ("red", "green", "blue")

    def label_frames(self, frames: Frames) -> tuple[SceneClasses, SceneScores]:  # type: ignore[override]
        self.allowed -= len(frames)
        assert self.allowed >= 0
        return best_scenes(np.log(frames.mean(axis=(1, 2), dtype=np.float32) + 1) - 9)


@dataclass(frozen=True)
class PackedToys:
    """The toy clips, packed and labelled, under names whose originals are not there."""

    folder: Path
    train: Path
    val: Path

    @property
    def clips(self) -> Manifest:
        return read_manifest(self.train)


@pytest.fixture(scope="module")
def toys(toy: ToySet, tmp_path_factory: pytest.TempPathFactory) -> PackedToys:
    folder = tmp_path_factory.mktemp("packed")
    packed = PackedToys(folder / "pack", folder / "train.csv", folder / "val.csv")
    for there, here in ((toy.train, packed.train), (toy.val, packed.val)):
        rows = [(clip.name, toy.classes[clip.label]) for clip in read_manifest(there)]
        write_manifest(here, [("train/gone", "hiking"), *rows] if here == packed.train else rows)
        clips = read_manifest(here, root=toy.folder)
        pack_clips(clips, packed.folder, PackSettings(short_side=48), shard_bytes=60_000, workers=1)
    train_clips = read_manifest(packed.train, root=toy.folder)
    report = packed_cache(Packs([packed.folder]), 0, HumanTeacher(), SceneTeacher()).fill(train_clips)
    assert (report.labelled, report.frames, len(report.unreadable)) == (12, 72, 1)
    return packed


def give_teachers(monkeypatch: pytest.MonkeyPatch, *teachers: HumanTeacher) -> None:
    by_task = {teacher.task: teacher for teacher in teachers}
    monkeypatch.setattr(labelling_module, "open_teachers", lambda *_: (by_task.get("human"), by_task.get("scene")))


def test_packed_labels_are_the_teachers_of_the_packed_frames(toys: PackedToys, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = Packs([toys.folder])
    give_teachers(monkeypatch, HumanTeacher(allowed=0), SceneTeacher(allowed=0))
    labelling = label_clips(NO_CONFIG, ["human", "scene"], toys.clips, packs)
    assert isinstance(labelling.source, PackedLabels)
    assert labelling.scene_names == ("red", "green", "blue")
    fresh = TeacherLabels(HumanTeacher(), SceneTeacher())
    for clip in list(toys.clips)[1:]:
        indices = np.array([4, 0, 4])
        frames = packs.open(clip).read(indices)
        stored, made = (
            labelling.source.labels(clip, indices, np.zeros_like(frames)),
            fresh.labels(clip, indices, frames),
        )
        for name in ("human", "scene_classes", "scene_scores"):
            np.testing.assert_array_equal(getattr(stored, name), getattr(made, name))


def test_other_or_missing_labels_are_told_at_the_start(toys: PackedToys, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = Packs([toys.folder])
    other = SceneTeacher(allowed=0)
    other.fingerprint = "c" * 64
    give_teachers(monkeypatch, HumanTeacher(allowed=0), other)
    with pytest.raises(
        InputError,
        match=r"lacks scene labels by scenes.onnx for 12 clips of the 13 in .*train.csv, the first is train/",
    ):
        label_clips(NO_CONFIG, ["human", "scene"], toys.clips, packs)
    labelling = label_clips(TeachersConfig(labels="on_the_fly"), ["human", "scene"], toys.clips, packs)
    assert isinstance(labelling.source, TeacherLabels)
    give_teachers(monkeypatch)
    assert label_clips(NO_CONFIG, [], toys.clips, packs).source is None


@pytest.mark.parametrize("kind", ["tsn", "kinet"])
def test_training_and_testing_need_nothing_but_the_pack(
    toys: PackedToys, toy: ToySet, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_teachers(monkeypatch, *((HumanTeacher(allowed=0), SceneTeacher(allowed=0)) if kind == "kinet" else ()))
    config = getattr(toy, kind)(tmp_path / "run")
    config.data = replace(config.data, train=str(toys.train), val=str(toys.val), pack=str(toys.folder))
    config.training = replace(config.training, epochs=1)
    result = train(config)
    assert result["skipped"] == 1  # as on originals: what could not be packed is no clip, and no error
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert ("loss_human" in rows[-1]) == (kind == "kinet")
    tested, _ = run_test(tmp_path / "run", Options(Views(2, 1), device="cpu"))
    named, _ = run_test(tmp_path / "run", Options(Views(2, 1), pack=[str(toys.folder)], device="cpu"))
    assert tested == named
    assert tested["skipped"] == 0
    with pytest.raises(InputError, match="could be read"):  # the originals are not there
        run_test(tmp_path / "run", Options(Views(2, 1), pack=[]))


def test_clips_outside_the_pack_end_the_test_at_its_start(
    toys: PackedToys, toy: ToySet, tsn_run: Path, tmp_path: Path
) -> None:
    manifest = toy.manifest(tmp_path / "other.csv", clips=4)  # absolute paths: not the names of packed clips
    with pytest.raises(InputError, match=r"4 of the 4 clips of .*other.csv are not packed"):
        run_test(tsn_run, Options(Views(2, 1), manifest=manifest, pack=[str(toys.folder)], device="cpu"))


def test_the_command_packs_labels_and_verifies(toy: ToySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "train.yaml"
    config.write_text("teachers: {human: {path: people.onnx, threads: 3}}\n")
    asked = []

    def open_fakes(teachers: TeachersConfig, tasks: list[str]) -> tuple[Any, Any]:
        asked.append((teachers, tasks))
        return HumanTeacher(), SceneTeacher()

    monkeypatch.setattr("kinet.packing.open_teachers", open_fakes)
    options = PackOptions(human=str(config), scene="scenes.onnx", workers=1, verify=True)
    result = run_pack(toy.val, tmp_path / "pack", PackSettings(), options)
    ((teachers, tasks),) = asked
    assert tasks == ["human", "scene"]
    assert (teachers.human.path, teachers.human.threads, teachers.scene.path) == ("people.onnx", 3, "scenes.onnx")
    assert (result["clips"], result["packed"], result["skipped"], result["verified_shards"]) == (6, 6, 0, 1)
    assert (result["labels"]["labelled"], result["labels"]["frames"]) == (6, 36)
    with pytest.raises(InputError, match=r"--scene .*train.yaml: this config names no teachers.scene"):
        run_pack(toy.val, tmp_path / "pack", PackSettings(), PackOptions(scene=str(config)))
    for wrong, message in ((PackOptions(workers=0), "--workers 0"), (PackOptions(shard_mb=0), "--shard-mb 0")):
        with pytest.raises(InputError, match=message):
            run_pack(toy.val, tmp_path / "pack", PackSettings(), wrong)
