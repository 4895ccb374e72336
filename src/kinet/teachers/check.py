"""``kinet teach check``: what teachers say of a sample of one's own clips, for which no truth is known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kinet.config import read_config
from kinet.data.clip import UnreadableClip
from kinet.data.manifest import Clip, Manifest
from kinet.data.sampling import train_indices
from kinet.data.video import open_clip
from kinet.errors import InputError
from kinet.progress import clip_progress
from kinet.teachers.labelling import open_teacher
from kinet.teachers.plausible import PERSON, MaskShares, SceneShares
from kinet.teachers.teacher import Masks, SceneClasses, SceneScores, Teacher
from kinet.teachers.teacher_config import TeacherConfig
from kinet.training.run_folder import write_json

logger = logging.getLogger(__name__)

CONFIG_SUFFIXES = (".yaml", ".yml")
EVERY_SCENE = 1_000_000
"""``TeacherConfig.best`` that keeps all classes, whose entropy is asked for."""
COMMON = 10
"""Scenes that the result names."""

Pick = Callable[[Clip, int], npt.NDArray[np.int64]]
"""Which frames of a clip with so many are looked at."""


@dataclass(frozen=True)
class Seen:
    """A frame of the sample and what each teacher said of it."""

    clip: Clip
    index: int
    masks: dict[int, Masks]
    """(64, 85) uint8, by the teacher's place."""
    scenes: dict[int, tuple[SceneClasses, SceneScores]]
    """(classes,) each: all scenes, the best first, and their log-probabilities."""


@dataclass(frozen=True)
class Check:
    """What was seen, and what it comes to."""

    teachers: Sequence[Teacher]
    seen: list[Seen]
    agreement: npt.NDArray[np.float64] | None
    """(frames,) of two teachers of one task: IoU of their masks (NaN where both see nobody), or 1 and 0 for the same
    best scene and another."""
    result: dict[str, Any]
    """As in check.json."""


def open_checked(teacher: str) -> Teacher:
    """The teacher of a path (see ``TeacherConfig.path``) or of a YAML file of ``TeacherConfig``; it keeps all scenes.

    Raises:
        InputError: a wrong config, or a teacher that can't be used.
    """
    is_config = Path(teacher).suffix.lower() in CONFIG_SUFFIXES
    config = read_config(Path(teacher), (), TeacherConfig, {}) if is_config else TeacherConfig(teacher)
    return open_teacher(replace(config, best=EVERY_SCENE))


def draw(manifest: Manifest, clips: int, seed: int) -> list[Clip]:
    """``clips`` different clips, or all if there are fewer; in the manifest's order."""
    if clips < 1:
        raise InputError(f"--clips {clips}: give 1 or more")
    chosen = np.random.default_rng(seed).choice(len(manifest), min(clips, len(manifest)), replace=False)
    return [manifest[int(index)] for index in np.sort(chosen)]


def random_frames(frames: int, seed: int) -> Pick:
    """A random frame of each of ``frames`` equal parts of a clip; the same whichever other clips are looked at."""
    if frames < 1:
        raise InputError(f"--frames {frames}: give 1 or more")

    def pick(clip: Clip, length: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng([seed, *clip.name.encode("utf-8", "surrogateescape")])
        return np.unique(train_indices(length, frames, rng))

    return pick


def check_teachers(clips: Sequence[Clip], teachers: Sequence[Teacher], pick: Pick) -> Check:
    """Label frames of ``clips`` by one or two teachers, and count. Warnings are logged, one line each.

    Raises:
        InputError: more than two teachers; no clip that can be read; two scene teachers without a common class.
    """
    if len(teachers) > 2:
        raise InputError(f"--teacher: {len(teachers)} given; give one, or two to compare")
    seen, unreadable = look(clips, teachers, pick)
    if not seen:
        raise InputError(f"none of {len(clips)} clips can be read, the first is {unreadable[0]}; see kinet manifest")
    figures, warnings = [], []
    for place, teacher in enumerate(teachers):
        count = human_figures if teacher.task == "human" else scene_figures
        numbers, warning = count(seen, place, teacher)
        figures.append({"teacher": teacher.name, "task": teacher.task, **numbers})
        warnings += [warning] if warning else []
    for warning in warnings:
        logger.warning("%s", warning)
    result: dict[str, Any] = {
        "clips": len(clips),
        "frames": len(seen),
        "unreadable": [{"clip": str(error.path), "cause": error.cause} for error in unreadable],
        "teachers": figures,
    }
    agreement = None
    if len(teachers) == 2 and teachers[0].task == teachers[1].task:
        compare = mask_agreement if teachers[0].task == "human" else scene_agreement
        agreement, numbers = compare(seen, teachers)
        result["agreement"] = numbers | {"worst": [place_of(seen[i]) for i in np.argsort(agreement)[:COMMON]]}
    return Check(teachers, seen, agreement, result | {"warnings": warnings})


def look(clips: Sequence[Clip], teachers: Sequence[Teacher], pick: Pick) -> tuple[list[Seen], list[UnreadableClip]]:
    """The chosen frames with their labels, and the clips that could not be read."""
    seen: list[Seen] = []
    unreadable: list[UnreadableClip] = []
    with clip_progress("checking", len(clips)) as advance:
        for clip in clips:
            try:
                source = open_clip(clip.path)
                indices = pick(clip, len(source))
                frames = source.read(indices)
            except UnreadableClip as error:
                unreadable.append(error)
            else:
                labels = [teacher.label_frames(frames) for teacher in teachers]
                for row, index in enumerate(indices):
                    masks = {place: said[row] for place, said in enumerate(labels) if not isinstance(said, tuple)}
                    scenes = {
                        place: (said[0][row], said[1][row])
                        for place, said in enumerate(labels)
                        if isinstance(said, tuple)
                    }
                    seen.append(Seen(clip, int(index), masks, scenes))
            advance(1, f"{len(unreadable)} unreadable" if unreadable else "")
    return seen, unreadable


def human_figures(seen: Sequence[Seen], place: int, teacher: Teacher) -> tuple[dict[str, Any], str | None]:
    """Shares of the frames without a person, of those with nothing else, and of the frame that is people."""
    shares = MaskShares()
    shares.add(np.stack([frame.masks[place] for frame in seen]))
    figures = {
        "no_person_share": shares.empty / len(seen),
        "all_person_share": shares.full / len(seen),
        "person_share": shares.person / len(seen),
    }
    return rounded(figures), shares.warning(teacher)


def scene_figures(seen: Sequence[Seen], place: int, teacher: Teacher) -> tuple[dict[str, Any], str | None]:
    """Entropies in bits, 0 to log2(classes): of a frame's probabilities, on average; of the best scenes of the set.

    A good teacher is sure of a frame (low) and has different things to say of different frames (high).
    """
    shares = SceneShares()
    shares.add(np.stack([frame.scenes[place][0] for frame in seen]))
    rows = np.exp(np.stack([frame.scenes[place][1] for frame in seen]).astype(np.float64))
    probabilities = rows / rows.sum(axis=1, keepdims=True)
    figures: dict[str, Any] = rounded(
        {
            "frame_entropy_bits": float(entropy_bits(probabilities).mean()),
            "set_entropy_bits": float(entropy_bits(np.array([*shares.counts.values()]) / len(seen))),
            "highest_entropy_bits": float(np.log2(teacher.classes)),
            "best_probability": float(probabilities[:, 0].mean()),
        }
    )
    figures["most_common"] = [
        {"scene": teacher.class_names[scene], "share": round(count / len(seen), 4)}
        for scene, count in shares.counts.most_common(COMMON)
    ]
    return figures, shares.warning(teacher)


def mask_agreement(seen: Sequence[Seen], teachers: Sequence[Teacher]) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """IoU of the two masks (P(person) of one half and more) of each frame, NaN where both are empty; and figures.

    ``mask_iou`` is the mean over the frames where at least one teacher sees somebody. Frames where both see nobody
    are a share of their own; ``mask_iou_empty_as_1`` counts them as full agreement. ``pooled_iou`` counts pixels of
    all frames together, and ``mean_iou`` averages it with the background's, as ``kinet teach human`` does.
    """
    first, second = (np.stack([frame.masks[place] for frame in seen]) >= PERSON for place in (0, 1))
    both, either = (first & second).sum(axis=(1, 2)), (first | second).sum(axis=(1, 2))
    iou = np.where(either > 0, both / np.maximum(either, 1), np.nan)
    pooled = ratio(both.sum(), either.sum())
    background = ratio((~first & ~second).sum(), (~first | ~second).sum())
    figures = {
        "mask_iou": float(np.nanmean(iou)) if either.any() else None,
        "mask_iou_empty_as_1": float(np.nan_to_num(iou, nan=1.0).mean()),
        "both_empty_share": float((either == 0).mean()),
        "one_empty_share": float((first.any(axis=(1, 2)) ^ second.any(axis=(1, 2))).mean()),
        "pooled_iou": pooled,
        "mean_iou": (pooled + background) / 2 if pooled is not None and background is not None else None,
        "person_only_first": ratio((first & ~second).sum(), first.sum()),
        "person_only_second": ratio((second & ~first).sum(), second.sum()),
    }
    return iou, rounded(figures)


def scene_agreement(
    seen: Sequence[Seen], teachers: Sequence[Teacher]
) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """1 where the two best scenes have the same name, else 0; and its mean as ``scene_top1``."""
    if not set(teachers[0].class_names) & set(teachers[1].class_names):
        raise InputError(
            f"{teachers[0].name} and {teachers[1].name} have no class name in common; set their class_names"
        )
    names = [
        [teacher.class_names[frame.scenes[place][0][0]] for frame in seen] for place, teacher in enumerate(teachers)
    ]
    same = np.array([float(one == other) for one, other in zip(*names, strict=True)])
    return same, rounded({"scene_top1": float(same.mean())})


def write_check(check: Check, out: Path) -> dict[str, Any]:
    """Write check.json, sheet.png and check.html into ``out``; returns the result with their paths.

    Raises InputError where a file can't be written.
    """
    from kinet.teachers.check_sheet import contact_sheet, page

    files = {"sheet": out / "sheet.png", "page": out / "check.html"}
    result = check.result | {name: str(path) for name, path in files.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        contact_sheet(check).save(files["sheet"])
        files["page"].write_text(page(check, files["sheet"].name), encoding="utf-8")
        write_json(out / "check.json", result)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    return result


def place_of(frame: Seen) -> dict[str, Any]:
    return {"clip": frame.clip.name, "frame": frame.index}


def entropy_bits(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shannon entropy over the last axis; 0 log 0 is 0."""
    logs = np.log2(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    entropy: npt.NDArray[np.float64] = np.maximum(0, -(probabilities * logs).sum(axis=-1))
    return entropy


def ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value is None else round(value, 4) for name, value in figures.items()}
