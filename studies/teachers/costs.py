"""What labels cost: each teacher, the cache, and an epoch of KINet with constant, cached and fresh labels.

    python studies/teachers/costs.py --shared FOLDER [--work runs/teachers_costs]

FOLDER holds data (hmdb25, ucf101_samples) and weights. One process and one thread, on a machine that does nothing
else. Epochs of configs/hmdb25/kinet_mobilenetv2.yaml (with random weights, which cost the same) alternate between the
three kinds of labels, five times after one that is not counted; the figures are medians of ratios within a round. Clips
of 8 JPEG frames (hmdb25, 64 of them) and video files (ucf101, 32 of 29 to 528 frames) are measured apart. Writes
costs.json beside this file, and cache_cost_ratio and cache_bytes_per_frame (the greater of the two) and
onthefly_over_cache_epoch (hmdb25's) into summary.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from record import CONFIGS, HERE, add_to_summary

from kinet.config import Config, load_config
from kinet.data.manifest import Clip, read_manifest, write_manifest
from kinet.data.sources.folder import index_folder, index_frames
from kinet.data.video import open_clip
from kinet.teachers.cache import CachedLabels, LabelCache, clip_key
from kinet.teachers.labelling import Labelling, open_teacher
from kinet.teachers.teacher import (
    BEST_SCENES,
    MASK_SIZE,
    FrameLabels,
    Frames,
    LabelSource,
    Teacher,
    TeacherLabels,
)
from kinet.teachers.teacher_config import TeacherConfig
from kinet.training.engine import train
from kinet.training.run_folder import read_log, write_json

CLIPS = {"hmdb25": 64, "ucf101": 32}
ROUNDS = 5
TIMED_FRAMES = 100


class ConstantLabels:
    """The same labels for every frame: a ``LabelSource`` that costs nothing."""

    def labels(self, clip: Clip, indices: npt.NDArray[np.int64], frames: Frames) -> FrameLabels:
        """See ``LabelSource.labels``."""
        masks = np.full((len(frames), *MASK_SIZE), 255, np.uint8)
        classes = np.tile(np.arange(BEST_SCENES, dtype=np.int32), (len(frames), 1))
        return FrameLabels(masks, classes, np.zeros(classes.shape, np.float16))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/teachers_costs"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    names = options.shared / "weights/categories_places365.txt"
    human = open_teacher(TeacherConfig(path=str(options.shared / "weights/person_prisma.onnx"), threads=1))
    scene = open_teacher(
        TeacherConfig(
            path=str(options.shared / "weights/scene_squeezenet_places365.onnx"), class_names=str(names), threads=1
        )
    )
    parts = open_teacher(TeacherConfig(path=str(options.shared / "weights/parts_bodypix_s16.onnx"), threads=1))
    result: dict[str, Any] = {"clips": CLIPS, "rounds": ROUNDS, "threads": 1}
    result |= {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    result["teachers"] = {
        teacher.name: seconds_per_1000(teacher, sample_frames(options.shared)) for teacher in (human, scene, parts)
    }
    for name, folder, index in (
        ("hmdb25", options.shared / "data/hmdb25", index_frames),
        ("ucf101", options.shared / "data/ucf101_samples", index_folder),
    ):
        rows = index(folder) if name == "hmdb25" else flat_videos(folder)
        chosen = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))[: CLIPS[name]]]
        manifest = options.work / f"{name}.csv"
        write_manifest(manifest, chosen)
        result[name] = measure(options.work / name, manifest, folder, human, scene)
        print(json.dumps({name: result[name]}))
    write_json(HERE / "costs.json", result)
    add_to_summary(
        cache_cost_ratio=max(result[name]["cache_over_constant"] for name in ("hmdb25", "ucf101")),
        cache_bytes_per_frame=max(result[name]["cache_bytes_per_frame"] for name in ("hmdb25", "ucf101")),
        onthefly_over_cache_epoch=result["hmdb25"]["onthefly_over_cache"],
    )


def flat_videos(folder: Path) -> list[tuple[str, str]]:
    """Rows (path, label) of UCF-101's files v_<Class>_gNN_cNN.avi."""
    return [(path.name, path.name.split("_")[1]) for path in sorted(folder.glob("*.avi"))]


def sample_frames(shared: Path) -> Frames:
    folders = sorted((shared / "data/hmdb25").glob("*/*"))[:: 1250 // TIMED_FRAMES]
    return np.concatenate([open_clip(folder).read([0]) for folder in folders[:TIMED_FRAMES]])


def seconds_per_1000(teacher: Teacher, frames: Frames) -> float:
    """Of one thread; the median of three."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        teacher.label_frames(frames)
        seconds.append(time.perf_counter() - started)
    return round(statistics.median(seconds) / len(frames) * 1000, 2)


def measure(work: Path, manifest: Path, root: Path, human: Teacher, scene: Teacher) -> dict[str, Any]:
    """Fill a cache, then time epochs with each kind of labels."""
    cache = LabelCache(work / "labels", human, scene)
    clips = read_manifest(manifest, root=root)
    report = cache.fill(clips)
    paths = [cache.entry_path(clip_key(clip), teacher) for clip in clips for teacher in (human, scene)]
    sources: dict[str, LabelSource] = {
        "constant": ConstantLabels(),
        "cache": CachedLabels(cache),
        "onthefly": TeacherLabels(human, scene),
    }
    seconds = []
    epoch(work, manifest, root, sources["constant"], scene)
    for turn in range(ROUNDS):
        seconds.append({name: epoch(work, manifest, root, source, scene) for name, source in sources.items()})
        print(json.dumps({"round": turn} | seconds[-1]), flush=True)
    return {
        "frames": report.frames,
        "fill_seconds_per_1000_frames": round(report.seconds / report.frames * 1000, 2),
        "cache_bytes_per_frame": round(sum(path.stat().st_size for path in paths) / report.frames, 1),
        "cache_over_constant": ratio(seconds, "cache", "constant"),
        "onthefly_over_cache": ratio(seconds, "onthefly", "cache"),
        "epochs": seconds,
    }


def epoch(work: Path, manifest: Path, root: Path, source: LabelSource, scene: Teacher) -> float:
    """Seconds of one epoch of ``kinet train``, without set-up and checkpoint."""
    shutil.rmtree(work / "run", ignore_errors=True)
    config = run_config(work / "run", manifest, root)
    train(config, labelling=Labelling(source, scene.class_names))
    return float(read_log(work / "run/metrics.jsonl")[-1]["seconds"])


def run_config(out: Path, manifest: Path, root: Path) -> Config:
    config = load_config(CONFIGS.parent / "hmdb25/kinet_mobilenetv2.yaml", ["--out", str(out)])
    return replace(
        config,
        model=replace(config.model, weights="none"),
        data=replace(config.data, train=str(manifest), val=None, root=str(root), workers=0),
        training=replace(config.training, epochs=1, device="cpu"),
    )


def ratio(rounds: Sequence[dict[str, float]], above: str, below: str) -> float:
    return round(statistics.median(row[above] / row[below] for row in rounds), 4)


if __name__ == "__main__":
    main()
