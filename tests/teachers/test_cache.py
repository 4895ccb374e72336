"""Stored labels are those that the teachers give, or they are made again."""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from kinet.data.manifest import Clip
from kinet.data.video import open_clip
from kinet.errors import InputError
from kinet.teachers import cache as cache_module
from kinet.teachers.cache import PART, CachedLabels, LabelCache, clip_key, read_entry, write_entry
from kinet.teachers.onnx_teacher import OnnxTeacher
from kinet.teachers.teacher import (
    FrameLabels,
    Frames,
    Masks,
    SceneClasses,
    SceneScores,
    Task,
    TeacherLabels,
    best_scenes,
    masks_from_probabilities,
)
from kinet.teachers.teacher_config import TeacherConfig


class HumanTeacher:
    """Says "person" where the frames are brighter than a level; counts the frames that it was shown."""

    task: Task = "human"
    name = "brightness"
    classes = 2
    class_names = ("background", "person")

    def __init__(self, level: int = 0) -> None:
        self.level = level
        self.fingerprint = hashlib.sha256(bytes([level])).hexdigest()
        self.seen = 0

    def label_frames(self, frames: Frames) -> Masks:
        self.seen += len(frames)
        brightness = frames.mean(axis=3, dtype=np.float32) - np.float32(self.level)
        return masks_from_probabilities(brightness.clip(0, 255) / 255)


class SceneTeacher:
    """The scene is the brightest colour."""

    task: Task = "scene"
    name = "colour"
    fingerprint = "c" * 64
    classes = 3
    class_names = ("red", "green", "blue")

    def __init__(self) -> None:
        self.seen = 0

    def label_frames(self, frames: Frames) -> tuple[SceneClasses, SceneScores]:
        self.seen += len(frames)
        return best_scenes(np.log(frames.mean(axis=(1, 2), dtype=np.float32) + 1) - 9, best=2)


def make_clip(root: Path, name: str, frames: int = 5, seed: int = 0) -> Clip:
    """A folder of small images."""
    rng = np.random.default_rng((seed, frames))
    (root / name).mkdir(parents=True)
    for number in range(frames):
        pixels = rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(root / name / f"{number}.png")
    return Clip(root / name, 0, name)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return [make_clip(tmp_path / "clips", f"class/{n}", frames=4 + n, seed=n) for n in range(3)]


@pytest.fixture
def cache(tmp_path: Path) -> LabelCache:
    return LabelCache(tmp_path / "labels", HumanTeacher(), SceneTeacher())


def seen(cache: LabelCache) -> list[int]:
    """Frames that the teachers were shown."""
    return [teacher.seen for teacher in (cache.human, cache.scene)]  # type: ignore[union-attr]


def equal(one: FrameLabels, other: FrameLabels) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in FrameLabels.__dataclass_fields__]
    return all(
        (a is None) == (b is None) and (a is None or (a.dtype == b.dtype and np.array_equal(a, b))) for a, b in pairs
    )


def entries(cache: LabelCache) -> list[Path]:
    return sorted(cache.folder.glob("*/*/*.npz"))


def check_against_teachers(cache: LabelCache, clips: list[Clip]) -> None:
    """Stored labels of frames in any order, some twice, against those made on the fly."""
    stored, made = CachedLabels(cache), TeacherLabels(cache.human, cache.scene)
    for clip in clips:
        indices = np.array([3, 0, 3, len(open_clip(clip.path)) - 1])
        frames = open_clip(clip.path).read(indices)
        nothing = np.zeros_like(frames)  # reading the cache does not look at the frames
        assert equal(stored.labels(clip, indices, nothing), made.labels(clip, indices, frames))
    assert stored.computed == 0


def test_stored_labels_are_the_teachers(clips: list[Clip], cache: LabelCache) -> None:
    report = cache.fill(clips)
    assert (report.labelled, report.frames, report.kept, report.damaged) == (3, 15, 0, 0)
    assert seen(cache) == [15, 15]
    assert len(entries(cache)) == 6
    check_against_teachers(cache, clips)


@pytest.mark.parametrize("task", ["human", "scene"])
def test_one_teacher_alone(clips: list[Clip], tmp_path: Path, task: str) -> None:
    teacher = HumanTeacher() if task == "human" else SceneTeacher()
    cache = LabelCache(tmp_path / "one", **{task: teacher})
    report = cache.fill(clips)
    assert (report.empty_masks is None) == (task == "scene")
    check_against_teachers(cache, clips)


def test_chunks_bound_the_frames_at_a_time(
    clips: list[Clip], cache: LabelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    label_entry = cache_module.label_entry
    monkeypatch.setattr(cache_module, "CHUNK", 4)
    monkeypatch.setattr(cache_module, "label_entry", lambda t, f: shown.append(len(f)) or label_entry(t, f))
    cache.fill(clips)
    assert sorted(shown) == sorted(2 * [4, 4, 1, 4, 2])
    check_against_teachers(cache, clips)


def test_filling_goes_on_where_it_stopped(clips: list[Clip], cache: LabelCache) -> None:
    cache.fill(clips[:1])
    before = entries(cache)[0].stat().st_mtime_ns
    report = cache.fill(clips)
    assert (report.labelled, report.kept, report.frames) == (2, 1, 11)
    assert seen(cache) == [15, 15]
    assert before in [path.stat().st_mtime_ns for path in entries(cache)]
    assert cache.fill(clips).kept == 3
    assert seen(cache) == [15, 15]


def test_an_interruption_leaves_no_part_of_a_file(
    clips: list[Clip], cache: LabelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: object, **arrays: np.ndarray) -> None:
        file.write(b"half a file")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cache.fill(clips)
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []
    assert cache.fill(clips).labelled == 3
    check_against_teachers(cache, clips)


def test_another_teacher_does_not_meet_old_labels(clips: list[Clip], cache: LabelCache) -> None:
    cache.fill(clips)
    other = LabelCache(cache.folder, HumanTeacher(level=100), cache.scene)
    report = other.fill(clips)
    assert report.labelled == 3
    assert seen(other) == [15, 15]  # the scene teacher is the same and was not asked again
    check_against_teachers(other, clips)
    check_against_teachers(cache, clips)


@pytest.mark.parametrize("change", ["one more", "one less", "other content", "other name"])
def test_a_changed_clip_does_not_meet_old_labels(clips: list[Clip], cache: LabelCache, change: str) -> None:
    cache.fill(clips)
    clip = clips[2]
    if change == "one more":
        (clip.path / "9.png").write_bytes((clip.path / "0.png").read_bytes())
    elif change == "one less":
        (clip.path / "2.png").unlink()
    elif change == "other content":
        Image.new("RGB", (32, 24), "red").save(clip.path / "2.png")
    else:
        clips[2] = Clip(clip.path, 0, "class/other")
    report = cache.fill(clips)
    assert (report.labelled, report.kept) == (1, 2)
    check_against_teachers(cache, clips)


def test_key_of_a_video_file_is_of_its_content(tmp_path: Path) -> None:
    data = bytearray(np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes())

    def key(content: bytes) -> str:
        (tmp_path / "a.avi").write_bytes(content)
        return clip_key(Clip(tmp_path / "a.avi", 0, "a.avi"))

    first = key(data)
    copy = tmp_path / "elsewhere.avi"
    copy.write_bytes(data)
    assert clip_key(Clip(copy, 3, "a.avi")) == first  # neither folder, nor time, nor label
    assert clip_key(Clip(copy, 3, "b.avi")) != first
    assert key(data + b"0") != first
    for place in (0, 65_535, 199_999 - 65_535, 199_999):
        changed = bytearray(data)
        changed[place] ^= 1
        assert key(changed) != first
    assert len({key(data[:length]) for length in (1, 1000, 65_536, 65_537, 131_072, 131_073)}) == 6


def test_files_beside_the_images_do_not_matter(clips: list[Clip]) -> None:
    before = clip_key(clips[0])
    (clips[0].path / "Thumbs.db").write_bytes(b"x")
    assert clip_key(clips[0]) == before


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_shape(path: Path) -> None:
    np.savez_compressed(path, **{"masks.0": np.zeros((4, 10, 10), np.uint8)})


def other_type(path: Path) -> None:
    np.savez_compressed(path, **{"masks.0": np.zeros((4, 64, 85), np.int64)})


def no_frames(path: Path) -> None:
    np.savez_compressed(path, **{"masks.0": np.zeros((0, 64, 85), np.uint8)})


def other_arrays(path: Path) -> None:
    np.savez_compressed(path, something=np.zeros(3))


def an_object(path: Path) -> None:
    np.savez_compressed(path, **{"masks.0": np.array([{"a": 1}], dtype=object)})


@pytest.mark.parametrize("damage", [flip_byte, cut, empty, other_shape, other_type, no_frames, other_arrays, an_object])
def test_a_damaged_file_alone_is_made_again(clips: list[Clip], cache: LabelCache, damage: object) -> None:
    cache.fill(clips)
    good = {path: path.read_bytes() for path in entries(cache)}
    assert cache.human is not None
    damaged = cache.entry_path(clip_key(clips[1]), cache.human)
    damage(damaged)  # type: ignore[operator]
    report = cache.fill(clips)
    assert (report.damaged, report.labelled, report.kept) == (1, 1, 2)
    assert seen(cache) == [15 + 5, 15]
    with np.load(damaged) as made:
        assert np.array_equal(made["masks.0"], cache.human.label_frames(open_clip(clips[1].path).read(range(5))))
    assert all(path.read_bytes() == data for path, data in good.items() if path != damaged)
    check_against_teachers(cache, clips)


def test_rows_of_a_long_clip_are_read_from_their_parts_alone(cache: LabelCache, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 16, (3 * PART + 5, 64, 85)).astype(np.uint8) * 17
    path = tmp_path / "entry.npz"
    write_entry(path, {"masks": masks})
    assert cache.human is not None
    everything = read_entry(path, cache.human)
    assert everything is not None
    assert np.array_equal(everything["masks"], masks)
    for rows in ([0], [PART, PART - 1], [52, 3, 52, 17], list(range(len(masks)))):
        some = read_entry(path, cache.human, np.array(rows))
        assert some is not None
        assert np.array_equal(some["masks"], masks[rows])
    assert read_entry(path, cache.human, np.array([1, len(masks)])) is None
    with np.load(path) as parts:
        kept = {name: parts[name] for name in parts.files if name != f"masks.{PART}"}
    np.savez_compressed(path, **kept)  # the second part is gone
    assert read_entry(path, cache.human) is None
    assert read_entry(path, cache.human, np.array([PART])) is None
    first = read_entry(path, cache.human, np.array([2]))
    assert first is not None
    assert np.array_equal(first["masks"], masks[[2]])


@pytest.mark.parametrize("what", ["missing", "damaged", "short"])
def test_without_a_usable_file_the_teachers_answer(
    clips: list[Clip], cache: LabelCache, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache.fill(clips)
    assert cache.human is not None
    path = cache.entry_path(clip_key(clips[1]), cache.human)
    if what == "missing":
        path.unlink()
    elif what == "damaged":
        flip_byte(path)
    else:
        np.savez_compressed(path, **{"masks.0": np.zeros((4, 64, 85), np.uint8)})
    indices = np.array([4, 1])
    frames = open_clip(clips[1].path).read(indices)
    labels = CachedLabels(cache)
    with caplog.at_level(logging.WARNING):
        found = [labels.labels(clips[1], indices, frames) for _ in range(2)]
    assert equal(found[0], TeacherLabels(cache.human, cache.scene).labels(clips[1], indices, frames))
    assert equal(found[0], found[1])
    assert labels.computed == 2
    assert len(caplog.records) == 1
    assert "class/1: no usable human labels" in caplog.text


def test_unreadable_clips_are_reported_and_left_out(clips: list[Clip], cache: LabelCache, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "text.avi").write_text("this is no video")
    (clips[1].path / "3.png").write_bytes(b"no image")
    bad = [Clip(tmp_path / name, 0, name) for name in ("none", "text.avi", "gone.avi")]
    report = cache.fill([bad[0], clips[0], bad[1], clips[1], bad[2], clips[2]])
    assert (report.labelled, report.frames) == (2, 10)
    assert [error.path for error in report.unreadable] == [bad[0].path, bad[1].path, clips[1].path, bad[2].path]
    assert all(error.cause for error in report.unreadable)
    assert len(entries(cache)) == 4


@pytest.mark.parametrize(("grey", "words"), [(0, "no person"), (255, "nothing but person"), (None, None)])
def test_masks_that_say_nothing_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, grey: int | None, words: str | None
) -> None:
    clips = [make_clip(tmp_path, f"{n}", frames=2, seed=n) for n in range(2)]
    for image in [image for clip in clips for image in clip.path.iterdir() if grey is not None]:
        Image.new("L", (32, 24), grey).save(image)
    cache = LabelCache(tmp_path / "labels", HumanTeacher())
    for _ in range(2):  # also where the masks are read from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            report = cache.fill(clips)
        assert [report.empty_masks, report.full_masks] == [float(grey == 0), float(grey == 255)]
        assert len(caplog.records) == (words is not None)
        assert words is None or f"brightness: its masks show {words} in 100% of the 4 frames" in caplog.text


def test_a_scene_that_all_frames_share_is_warned_of(
    clips: list[Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for image in [image for clip in clips for image in clip.path.iterdir()]:
        Image.new("RGB", (32, 24), (20, 90, 40)).save(image)
    cache = LabelCache(tmp_path / "labels", HumanTeacher(level=40), SceneTeacher())
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            cache.fill(clips)
        assert "brightness: its masks show no person in 100% of the 15 frames" in caplog.messages[0]
        assert caplog.messages[1].startswith(
            "colour: its scene is green in 100% of the 15 frames, so it teaches nothing"
        )
        assert len(caplog.messages) == 2


def test_a_folder_that_cannot_be_written(clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = LabelCache(tmp_path / "file", HumanTeacher())
    with pytest.raises(InputError, match="cannot write labels: Not a directory"):
        cache.fill(clips)


def test_real_teachers_store_little_and_the_same(shared: Path, tmp_path: Path) -> None:
    root = shared / "data/hmdb25"
    names = [str(next(iter(sorted((root / action).iterdir()))).relative_to(root)) for action in ("golf", "pour")]
    clips = [Clip(root / name, 0, name) for name in names]
    cache = LabelCache(
        tmp_path,
        OnnxTeacher(TeacherConfig(str(shared / "weights/person_prisma.onnx"))),
        OnnxTeacher(TeacherConfig(str(shared / "weights/scene_squeezenet_places365.onnx"))),
    )
    report = cache.fill(clips)
    assert report.frames == 16
    assert sum(path.stat().st_size for path in entries(cache)) / report.frames < 1000
    labels = CachedLabels(cache)
    indices = np.array([6, 2])
    frames = open_clip(clips[0].path).read(indices)
    calls = [partial(source.labels, clips[0], indices, frames) for source in (labels, labels.teachers)]
    there, made = DataLoader(calls, None, num_workers=1, collate_fn=lambda call: call(), timeout=60)
    assert equal(labels.labels(clips[0], indices, frames), there)
    assert equal(there, made)
