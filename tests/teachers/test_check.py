"""``kinet teach check``: what it counts, what it compares, and what stands on the sheet."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kinet.data.manifest import Clip, Manifest, read_manifest
from kinet.errors import InputError
from kinet.teachers.check import Check, Seen, check_teachers, draw, entropy_bits, random_frames, write_check
from kinet.teachers.check_sheet import FRAMES, chosen, page
from kinet.teachers.teacher import Frames, Masks, SceneClasses, SceneScores, Task, best_scenes, masks_from_probabilities

ToySet = Any  # tests/conftest.py's, which tests cannot import
SCENES = ("red", "green", "blue")


class White:
    """The white rectangle of the toy clips is a person; ``shift`` rows further down, or nowhere."""

    task: Task = "human"
    fingerprint = "h" * 64
    classes = 2
    class_names = ("background", "person")

    def __init__(self, name: str = "white", shift: int = 0, blind: bool = False) -> None:
        self.name, self.shift, self.blind = name, shift, blind

    def label_frames(self, frames: Frames) -> Masks:
        white = np.roll(frames.min(axis=3) > 200, self.shift, axis=1) & (not self.blind)
        return masks_from_probabilities(white.astype(np.float32))


class Colour:
    """The scene is the brightest colour, more or less surely."""

    task: Task = "scene"
    fingerprint = "s" * 64
    classes = 3

    def __init__(self, name: str = "colour", sure: float = 1.0, names: tuple[str, ...] = SCENES) -> None:
        self.name, self.sure, self.class_names = name, sure, names

    def label_frames(self, frames: Frames) -> tuple[SceneClasses, SceneScores]:
        logits = self.sure * frames.mean(axis=(1, 2), dtype=np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        return best_scenes(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), 3)


@pytest.fixture
def clips(toy: ToySet) -> Manifest:
    return read_manifest(toy.train)


def run(clips: Any, *teachers: Any, frames: int = 2) -> Check:
    return check_teachers(list(clips), teachers, random_frames(frames, 0))


def test_a_seed_draws_the_same_sample(clips: Manifest) -> None:
    drawn = draw(clips, 5, seed=3)
    assert drawn == draw(clips, 5, seed=3) != draw(clips, 5, seed=4)
    assert [clip.name for clip in drawn] == [clip.name for clip in clips if clip in drawn]
    assert len({clip.name for clip in drawn}) == 5
    assert draw(clips, 99, seed=0) == list(clips)
    pick = random_frames(3, 7)
    for length in (1, 2, 3, 100):
        indices = pick(clips[0], length)
        assert np.array_equal(indices, pick(clips[0], length))
        assert len(set(indices.tolist())) == len(indices) == min(3, length)
        assert (indices >= 0).all()
        assert (indices < length).all()
    for wrong in (lambda: draw(clips, 0, 0), lambda: random_frames(0, 0)):
        with pytest.raises(InputError, match="give 1 or more"):
            wrong()


def test_figures_of_people_and_scenes(clips: Manifest) -> None:
    check = run(clips, White(), Colour())
    human, scene = check.result["teachers"]
    assert (check.result["clips"], check.result["frames"], check.result["unreadable"]) == (12, 24, [])
    assert human["person_share"] == pytest.approx(32 * 16 / (64 * 80), abs=0.01)
    assert human["no_person_share"] == human["all_person_share"] == 0
    assert {row["scene"]: row["share"] for row in scene["most_common"]} == count(check, 1)
    shares = np.array([row["share"] for row in scene["most_common"]])
    assert scene["set_entropy_bits"] == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-3)
    assert scene["frame_entropy_bits"] < 0.01
    assert scene["highest_entropy_bits"] == pytest.approx(np.log2(3), abs=1e-4)
    assert "agreement" not in check.result
    assert check.result["warnings"] == []
    unsure = run(clips, Colour(sure=0)).result["teachers"][0]
    assert unsure["frame_entropy_bits"] == pytest.approx(np.log2(3), abs=1e-3)


def count(check: Check, place: int) -> dict[str, float]:
    best = [SCENES[frame.scenes[place][0][0]] for frame in check.seen]
    return {name: round(best.count(name) / len(best), 4) for name in best}


def test_entropy() -> None:
    rows = np.array([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]])
    assert entropy_bits(rows).tolist() == [0, 2, 1]


def test_agreement_of_masks(clips: Manifest) -> None:
    same = run(clips, White(), White("other")).result["agreement"]
    assert same["mask_iou"] == same["pooled_iou"] == same["mean_iou"] == 1
    check = run(clips, White(), White("shifted", shift=16))
    found = check.result["agreement"]
    assert found["mask_iou"] == pytest.approx(1 / 3, abs=0.03)  # rectangles of 32 rows that share 16
    assert found["mask_iou_empty_as_1"] == found["mask_iou"]
    assert found["person_only_first"] == found["person_only_second"] == pytest.approx(1 / 2, abs=0.03)
    assert check.agreement is not None
    assert found["mask_iou"] == pytest.approx(check.agreement.mean(), abs=1e-4)
    worst = check.seen[int(check.agreement.argmin())]
    assert found["worst"][0] == {"clip": worst.clip.name, "frame": worst.index}


def test_frames_where_both_see_nobody_are_a_share_of_their_own(clips: Manifest) -> None:
    blind = run(clips, White(blind=True), White("other", blind=True))
    assert blind.result["agreement"]["mask_iou"] is None
    assert blind.result["agreement"]["mask_iou_empty_as_1"] == blind.result["agreement"]["both_empty_share"] == 1
    one = run(clips, White(), White("other", blind=True)).result["agreement"]
    assert (one["mask_iou"], one["both_empty_share"], one["one_empty_share"]) == (0, 0, 1)
    assert one["person_only_second"] is None


def test_agreement_of_scenes_is_by_name(clips: Manifest) -> None:
    found = run(clips, Colour(), Colour("other", sure=0.1)).result["agreement"]
    assert found["scene_top1"] == 1
    swapped = run(clips, Colour(), Colour("other", names=("green", "red", "blue")))
    blue = count(swapped, 0).get("blue", 0)
    assert swapped.result["agreement"]["scene_top1"] == pytest.approx(blue, abs=1e-4)
    with pytest.raises(InputError, match="colour and other have no class name in common; set their class_names"):
        run(clips, Colour(), Colour("other", names=("0", "1", "2")))
    with pytest.raises(InputError, match="--teacher: 3 given; give one, or two"):
        run(clips, White(), White(), Colour())


def test_unreadable_clips_are_named(clips: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = Clip(tmp_path / "gone", 0, "gone")
    result = run([gone, *clips], White()).result
    assert result["unreadable"] == [{"clip": str(gone.path), "cause": "missing"}]
    assert (result["clips"], result["frames"]) == (13, 24)
    with pytest.raises(InputError, match=r"none of 2 clips can be read, the first is .*gone: missing"):
        run([gone, gone], White())


def test_labels_that_say_nothing_are_warned_of(clips: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check = run(clips, White(blind=True), Colour(sure=-0.0))
    assert len(caplog.records) == len(check.result["warnings"]) == 2
    assert "white: its masks show no person in 100% of the 24 frames" in caplog.text
    assert "colour: its scene is red in 100% of the 24 frames" in caplog.text
    assert "in 100% of the 24 frames" in page(check, "sheet.png")


def test_files(clips: Manifest, tmp_path: Path) -> None:
    result = write_check(run(clips, White(), White("<b>", shift=16)), tmp_path / "out")
    assert json.loads((tmp_path / "out/check.json").read_text()) == result
    sheet = Image.open(result["sheet"]).convert("RGB")
    assert sheet.width < 1700
    colours = {colour for _, colour in sheet.getcolors(sheet.width * sheet.height) or ()}
    assert (255, 60, 200) in colours  # the outline of a mask
    text = Path(result["page"]).read_text()
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose another --out"):
        write_check(run(clips, Colour()), tmp_path / "file")


def test_a_sheet_begins_with_the_worst_frames() -> None:
    clip = Clip(Path("c"), 0, "c")
    agreement = np.linspace(1, 0, 500)
    agreement[7] = np.nan
    check = Check((), [Seen(clip, index, {}, {}) for index in range(500)], agreement, {})
    shown = chosen(check)
    assert shown[: FRAMES // 2] == list(range(499, 499 - FRAMES // 2, -1))
    assert len(shown) == len(set(shown)) == FRAMES
    assert max(np.diff(shown[FRAMES // 2 :])) <= 500 // (FRAMES // 2) + 1
    few = Check((), check.seen[:10], None, {})
    assert chosen(few) == list(range(10))
