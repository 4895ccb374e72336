"""From settings to labels: each branch has its teacher, and labels are made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kinet.config import TeachersConfig
from kinet.data.manifest import Manifest, read_manifest
from kinet.data.video import open_clip
from kinet.errors import InputError
from kinet.teachers.cache import CachedLabels
from kinet.teachers.labelling import Labelling, fill_cache, label_clips
from kinet.teachers.small import ModuleTeacher, SmallParser, SmallSceneNet
from kinet.teachers.teacher import FrameLabels, TeacherLabels
from kinet.teachers.teacher_config import TeacherConfig

ToySet = Any  # tests/conftest.py's, which tests cannot import


def write_network(path: Path, operation: str, output: list[Any], **attributes: Any) -> str:
    """One operation on frames (n, 3, 16, 16)."""
    node = helper.make_node(operation, ["x"], ["y"], **attributes)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "teacher",
        [value("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [value("y", TensorProto.FLOAT, output)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


@pytest.fixture
def settings(tmp_path: Path) -> TeachersConfig:
    """The mask is the mean channel, the scene the brightest one."""
    mask = write_network(tmp_path / "mask.onnx", "ReduceMean", ["n", 1, 16, 16], axes=[1], keepdims=1)
    scene = write_network(tmp_path / "scene.onnx", "ReduceMean", ["n", 3], axes=[2, 3], keepdims=0)
    return TeachersConfig(
        TeacherConfig(mask, "human", "unit", "probability"),
        TeacherConfig(scene, "scene", "unit", "logit"),
        cache=str(tmp_path / "labels"),
    )


@pytest.fixture
def clips(toy: ToySet) -> Manifest:
    return read_manifest(toy.val)


def ask(labelling: Labelling, clips: Manifest, index: int = 2) -> FrameLabels:
    assert labelling.source is not None
    indices = np.array([4, 0, 0])
    return labelling.source.labels(clips[index], indices, open_clip(clips[index].path).read(indices))


def test_cached_and_fresh_labels_are_the_same(settings: TeachersConfig, clips: Manifest) -> None:
    cached = label_clips(settings, ["scene", "human"], clips)
    assert isinstance(cached.source, CachedLabels)
    settings.labels = "on_the_fly"
    fresh = label_clips(settings, ["scene", "human"], clips)
    assert isinstance(fresh.source, TeacherLabels)
    for index in range(len(clips)):
        first, second = ask(cached, clips, index), ask(fresh, clips, index)
        for name in ("human", "scene_classes", "scene_scores"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert cached.source.computed == 0
    assert cached.scene_names == fresh.scene_names == ("0", "1", "2")


def test_only_the_branches_teachers_are_asked(settings: TeachersConfig, clips: Manifest, tmp_path: Path) -> None:
    human = label_clips(settings, ["human"], clips)
    assert human.scene_names == ()
    assert ask(human, clips).scene_classes is None
    assert ask(human, clips).human is not None
    scene = label_clips(settings, ["scene"], clips)
    assert ask(scene, clips).human is None
    assert ask(scene, clips).scene_classes is not None
    made = sorted(path.name.split("-")[0] for path in (tmp_path / "labels").iterdir())
    assert made == ["human", "scene"]


def test_tsn_needs_no_teacher(settings: TeachersConfig, clips: Manifest, tmp_path: Path) -> None:
    for config in (settings, TeachersConfig()):
        assert label_clips(config, [], clips) == Labelling(None, ())
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"human": None}, "teachers.human: the human branch needs one"),
        ({"scene": None}, "teachers.scene: the scene branch needs one"),
        ({"human": TeacherConfig("none.onnx", "human", "unit", "logit")}, "none.onnx: cannot read this teacher"),
    ],
    ids=["no human", "no scene", "no file"],
)
def test_a_branch_without_a_usable_teacher(
    settings: TeachersConfig, clips: Manifest, change: dict[str, Any], expected: str
) -> None:
    for name, value in change.items():
        setattr(settings, name, value)
    with pytest.raises(InputError) as caught:
        label_clips(settings, ["scene", "human"], clips)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_teachers_in_each_others_place_are_refused(settings: TeachersConfig, clips: Manifest) -> None:
    settings.human, settings.scene = settings.scene, settings.human
    with pytest.raises(InputError, match=r"teachers\.scene: mask\.onnx is a teacher of the task human"):
        label_clips(settings, ["scene", "human"], clips)


def test_a_cache_is_filled_once(clips: Manifest, tmp_path: Path) -> None:
    class Counting(ModuleTeacher):
        seen = 0

        def label_frames(self, frames: Any) -> Any:
            self.seen += len(frames)
            return super().label_frames(frames)

    human = Counting("human", SmallParser(), ("background", "person"))
    scene = Counting("scene", SmallSceneNet(3), ("sea", "wood", "sand"))
    for _ in range(2):
        labelling = fill_cache(tmp_path, human, scene, clips)
        assert (human.seen, scene.seen) == (36, 36)  # 6 clips of 6 frames
    assert labelling.scene_names == ("sea", "wood", "sand")
    ask(labelling, clips)
    assert (human.seen, scene.seen) == (36, 36)
