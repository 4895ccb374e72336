from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageFilter

from kinet.data.generated import (
    ACTION_NAMES,
    ACTIONS,
    SCENES,
    Shot,
    generated_clips,
    render_clip,
    teacher_samples,
    write_generated_set,
)
from kinet.data.generated_brush import Brush
from kinet.data.generated_people import MOVEMENTS, draw_person
from kinet.errors import InputError


def test_neither_place_nor_movement_tells_the_action():
    assert len({(action.movement, action.scene) for action in ACTIONS}) == len(ACTIONS)
    assert Counter(action.movement for action in ACTIONS) == dict.fromkeys(MOVEMENTS, 2)
    assert Counter(action.scene for action in ACTIONS) == dict.fromkeys(SCENES, 2)
    assert list(ACTION_NAMES) == sorted(ACTION_NAMES)  # as a manifest without given classes orders them


def test_a_clip_is_the_same_every_time_and_no_two_are_alike():
    first, second = generated_clips("train", 2, seed=3)[:2]
    rendered = render_clip(first, size=(48, 64), frames=5)
    assert rendered.frames.shape == (5, 48, 64, 3)
    assert rendered.frames.dtype == np.uint8
    assert rendered.masks.shape == (5, 48, 64)
    assert rendered.masks.dtype == bool
    again = render_clip(first, size=(48, 64), frames=5)
    np.testing.assert_array_equal(rendered.frames, again.frames)
    np.testing.assert_array_equal(rendered.masks, again.masks)
    other = render_clip(second, size=(48, 64), frames=5)
    assert np.abs(rendered.frames.astype(int) - other.frames).mean() > 5


def test_the_person_moves():
    for clip in generated_clips("test", 1, seed=0):
        masks = render_clip(clip, size=(48, 64), frames=8).masks
        assert all(0.02 < share < 0.5 for share in masks.mean((1, 2)))
        assert (masks[:-1] ^ masks[1:]).any((1, 2)).all()


def test_splits_and_teachers_share_no_clip():
    seeds = [clip.seed for split in ("train", "val", "test") for clip in generated_clips(split, 3, seed=0)]
    seeds += [clip.seed for clip in generated_clips("train", 3, seed=1)]
    states = {tuple(np.random.SeedSequence(seed).generate_state(4)) for seed in seeds}
    states |= {tuple(np.random.SeedSequence((seed, 3, i)).generate_state(4)) for seed in (0, 1) for i in range(8)}
    assert len(states) == len(seeds) + 16


@pytest.mark.parametrize("scene", SCENES)
def test_the_mask_is_where_the_people_are(scene: str):
    """Drawing the same shot without people changes the pixels of the mask, and outside of it only the shadow's."""

    def draw(people: bool) -> tuple[np.ndarray, np.ndarray]:
        shot = Shot(scene, "kick", (96, 128), np.random.default_rng(5))
        shot.people = shot.people if people else []
        return shot.frame(0.4)

    with_people, mask = draw(people=True)
    without, empty = draw(people=False)
    assert not empty.any()
    changed = (with_people != without).any(-1)
    assert changed[mask].mean() > 0.95
    near = np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(3))) > 0
    stray = changed & ~near
    assert stray.mean() < 0.03
    assert not stray[:70].any()


def test_movements_show_in_single_frames():
    """At any phase: raised arms make people taller than they are, deep knees smaller; a kick reaches far ahead."""
    tall, ahead = {}, {}
    for movement in MOVEMENTS:
        rng = np.random.default_rng(0)
        heights, fronts = [], []
        for _ in range(40):
            person = draw_person(rng, movement, 4 / 3)
            mask = Image.new("L", (400, 400))
            image = Image.new("RGB", (400, 400))
            time = float(rng.uniform())
            person.draw(Brush(image, 200, origin=(0.3, 0.6), mask=mask), time)
            left, top, right, bottom = mask.getbbox() or (0, 0, 0, 0)
            hip = (person.hip_x(time) + 0.3) * 200
            heights.append((bottom - top) / 200 / person.height)
            fronts.append((right - hip if person.facing == 1 else hip - left) / 200 / person.height)
        tall[movement], ahead[movement] = np.array(heights), np.array(fronts)
    assert tall["crouch"].max() < 0.88 < np.median(tall["stride"])
    assert tall["reach"].min() > 1.06 > max(tall["kick"].max(), tall["stride"].max())
    assert np.median(ahead["kick"]) > np.quantile(ahead["stride"], 0.9)


def test_teacher_samples_have_every_scene_with_every_movement():
    images, masks, scenes = teacher_samples(40, seed=2, size=(48, 64))
    assert images.shape == (40, 48, 64, 3)
    assert images.dtype == np.uint8
    assert masks.shape == (40, 48, 64)
    assert masks.dtype == bool
    assert Counter(scenes.tolist()) == dict.fromkeys(range(len(SCENES)), 10)
    assert 25 < sum(mask.any() for mask in masks) <= 40
    repeated, _, _ = teacher_samples(4, seed=2, size=(48, 64))
    np.testing.assert_array_equal(repeated, images[:4])


def test_written_clips_are_the_rendered_ones(tmp_path: Path):
    calls: list[tuple[int, int]] = []
    counts = {"train": 2, "test": 1}
    manifests = write_generated_set(
        tmp_path / "set",
        clips_per_action=counts,
        seed=7,
        size=(48, 64),
        frames=6,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(done, 24) for done in range(1, 25)]
    assert list(manifests) == ["train", "test"]
    for split, manifest in manifests.items():
        with manifest.open(newline="") as file:
            rows = list(csv.DictReader(file))
        clips = generated_clips(split, counts[split], seed=7)
        assert [(row["path"], row["label"]) for row in rows] == [(c.name, ACTION_NAMES[c.action]) for c in clips]
        for row, clip in zip(rows, clips, strict=True):
            with av.open(str(manifest.parent / row["path"])) as container:
                decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
            rendered = render_clip(clip, size=(48, 64), frames=6)
            assert decoded.shape == rendered.frames.shape
            assert np.abs(decoded.astype(int) - rendered.frames).mean() < 14
            assert SCENES[rendered.scene] == ACTIONS[rendered.action].scene


def test_a_seed_fixes_every_byte(tmp_path: Path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_generated_set(tmp_path / folder, clips_per_action={"val": 1}, seed=seed, size=(32, 32), frames=3)

    def content(folder: str) -> dict[str, bytes]:
        root = tmp_path / folder
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    assert len(content("a")) == len(ACTIONS) + 1
    assert content("a") == content("b")
    assert content("a") != content("c")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"size": (47, 64)}, "47x64"),
        ({"size": (16, 64)}, "16x64"),
        ({"seed": -1}, "seed -1"),
        ({"clips_per_action": {"trian": 1}}, "trian"),
    ],
)
def test_wrong_use_is_named(tmp_path: Path, wrong: dict, named: str):
    with pytest.raises(InputError, match=named):
        write_generated_set(tmp_path, **{"clips_per_action": {"val": 1}} | wrong)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        write_generated_set(tmp_path / "file", clips_per_action={"val": 1}, size=(32, 32), frames=2)
