"""Do the two person teachers agree? ``person_prisma`` and BodyPix on frames of hmdb25's val.csv.

    python studies/teachers/agreement.py --shared FOLDER [--work runs/teachers_agreement]

FOLDER holds data/hmdb25, data/hmdb25_splits and weights. Frames 0 and 4 of each of the 225 clips are labelled by both;
the contact sheet and check.html go to the work folder. Then one setting of BodyPix is changed at a time, and each
teacher is compared with itself on mirrored frames. Writes agreement.json beside this file and prisma_bodypix_miou
(0 to 1: IoU of the masks, averaged over the frames where at least one teacher sees somebody) into summary.json.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from record import HERE, add_to_summary

from kinet.data.manifest import Clip
from kinet.data.video import open_clip
from kinet.teachers.check import check_teachers, write_check
from kinet.teachers.onnx_teacher import OnnxTeacher, prepare, run_session
from kinet.teachers.teacher import Frames, Masks, Teacher, human_labels
from kinet.teachers.teacher_config import TeacherConfig
from kinet.training.run_folder import write_json

FRAMES = np.array([0, 4])
VARIANTS: dict[str, dict[str, Any]] = {
    "colours in [0, 1]": {"scale": "unit"},
    "ImageNet's mean and deviation": {"scale": "imagenet"},
    "blue first": {"channels": "bgr"},
    "193 x 193": {"input_size": (193, 193)},
    "225 x 225": {"input_size": (225, 225)},
    "257 x 257": {"input_size": (257, 257)},
    "321 x 321": {"input_size": (321, 321)},
    "321 x 433": {"input_size": (321, 433)},
    "513 x 513": {"input_size": (513, 513)},
    "corners not aligned": {"align_corners": False},
}
"""Changes of BodyPix's settings, which are symmetric colours, red first, 257 x 337 with the corners aligned."""


@dataclass
class Remembered:
    """A human teacher that labels the same frames once."""

    teacher: OnnxTeacher
    masks: dict[bytes, Masks] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.teacher, name)

    def label_frames(self, frames: Frames) -> Masks:
        key = hashlib.sha256(frames.tobytes()).digest()
        if key not in self.masks:
            self.masks[key] = human_labels(self.teacher, frames)
        return self.masks[key]


@dataclass
class Mirrored:
    """A human teacher that sees frames mirrored, and mirrors its masks back."""

    teacher: Teacher

    def __getattr__(self, name: str) -> Any:
        return getattr(self.teacher, name)

    def label_frames(self, frames: Frames) -> Masks:
        return human_labels(self.teacher, np.ascontiguousarray(frames[:, :, ::-1]))[:, :, ::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/teachers_agreement"))
    options = parser.parse_args()
    with (options.shared / "data/hmdb25_splits/val.csv").open(newline="") as file:
        names = [f"{row['class']}/{row['video_name']}" for row in csv.DictReader(file)]
    clips = [Clip(options.shared / "data/hmdb25" / name, 0, name) for name in names]
    prisma, bodypix = (
        Remembered(OnnxTeacher(TeacherConfig(str(options.shared / "weights" / name))))
        for name in ("person_prisma.onnx", "parts_bodypix_s16.onnx")
    )
    check = check_teachers(clips, [prisma, bodypix], pick)
    write_check(check, options.work)
    result: dict[str, Any] = {key: check.result[key] for key in ("clips", "frames", "unreadable", "teachers")}
    result["agreement"] = {key: value for key, value in check.result["agreement"].items() if key != "worst"}
    agreement = check.agreement
    assert agreement is not None
    areas = np.array([(frame.masks[0] >= 128).mean() for frame in check.seen])
    result["by_frame"] = {
        f"frame_{index:02d}": mean(agreement[[frame.index == index for frame in check.seen]]) for index in FRAMES
    }
    result["by_share_of_person_prisma"] = by_area(agreement, areas)
    result["with_itself_mirrored"] = {
        teacher.name: brief(check_teachers(clips, [teacher, Mirrored(teacher)], pick).result)
        for teacher in (prisma, bodypix)
    }
    result["bodypix_part_somewhere"] = part_share(bodypix.teacher, clips)
    result["bodypix_changed"] = {}
    for name, change in VARIANTS.items():
        changed = OnnxTeacher(TeacherConfig(str(options.shared / "weights/parts_bodypix_s16.onnx"), **change))
        result["bodypix_changed"][name] = brief(check_teachers(clips, [prisma, changed], pick).result)
    print(json.dumps(result))
    write_json(HERE / "agreement.json", result)
    add_to_summary(prisma_bodypix_miou=result["agreement"]["mask_iou"])


def part_share(bodypix: OnnxTeacher, clips: list[Clip]) -> float:
    """Share of the pixels where at least one of the 24 part channels says "here" (a logit of 0 or more)."""
    config = replace(bodypix.config, output="part_heatmaps")
    shares = []
    for clip in clips:
        for frame in open_clip(clip.path).read(FRAMES[:1]):
            logits = run_session(bodypix.session, config, prepare(frame, config), bodypix.name)
            shares.append((logits.max(axis=-1) >= 0).mean())
    return round(float(np.mean(shares)), 4)


def pick(clip: Clip, length: int) -> npt.NDArray[np.int64]:
    return FRAMES


def brief(result: dict[str, Any]) -> dict[str, float]:
    return {key: result["agreement"][key] for key in ("mask_iou", "pooled_iou", "both_empty_share")}


def by_area(agreement: npt.NDArray[np.float64], areas: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Frames, and their mean IoU, by the share of the frame that is people."""
    edges = (0, 0.03, 0.1, 0.25, 0.5, 1)
    rows = {"0": areas == 0}
    rows |= {f"{low} to {high}": (areas > low) & (areas <= high) for low, high in pairwise(edges)}
    return {name: {"frames": int(chosen.sum()), "mask_iou": mean(agreement[chosen])} for name, chosen in rows.items()}


def mean(values: npt.NDArray[np.float64]) -> float:
    return round(float(np.nanmean(values)), 4)


if __name__ == "__main__":
    main()
