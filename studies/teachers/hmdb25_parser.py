"""PSPNet-DenseNet121 taught by another teacher's masks: ``kinet teach human`` on frames of hmdb25.

    python studies/teachers/hmdb25_parser.py --shared FOLDER [--work runs/teachers_hmdb25]

FOLDER holds data/hmdb25, data/hmdb25_splits and weights/person_prisma.onnx. Two frames of each clip of train.csv
(1,800) and of val.csv (450) with the ONNX teacher's masks at P(person) >= 0.5 become folders of images and masks;
configs/teach/human_folder_densenet121.yaml trains on them. Writes hmdb25_parser.json beside this file and
pspnet_hmdb25_miou (0 to 1, the last epoch's, over background and person) into summary.json. An interrupted training
goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from record import CONFIGS, HERE, add_to_summary, teach_human

from kinet.data.images import read_image
from kinet.progress import clip_progress
from kinet.teachers.labelling import open_teacher
from kinet.teachers.teacher import human_labels
from kinet.teachers.teacher_config import TeacherConfig
from kinet.training.run_folder import write_json

FRAMES = ("frame_00.jpg", "frame_04.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/teachers_hmdb25"))
    options = parser.parse_args()
    counts = {split: label_frames(options.shared, split, options.work / split) for split in ("train", "val")}
    result = teach_human(
        CONFIGS / "human_folder_densenet121.yaml",
        options.work / "run",
        ["--data.train", options.work / "train", "--data.val", options.work / "val"],
    )
    result |= {f"{split}_images": count for split, count in counts.items()}
    print(json.dumps(result))
    write_json(HERE / "hmdb25_parser.json", result)
    add_to_summary(pspnet_hmdb25_miou=result["mean_iou"])


def label_frames(shared: Path, split: str, folder: Path) -> int:
    """Make ``folder``/images and masks; a frame that has its mask is left as it is."""
    teacher = open_teacher(TeacherConfig(path=str(shared / "weights/person_prisma.onnx")))
    with (shared / "data/hmdb25_splits" / f"{split}.csv").open(newline="") as file:
        clips = [shared / "data/hmdb25" / row["class"] / row["video_name"] for row in csv.DictReader(file)]
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with clip_progress(f"masks of {split}", len(clips)) as advance:
        for clip in clips:
            for name in FRAMES:
                stem = f"{clip.parent.name}-{clip.name}-{Path(name).stem}"
                if not (folder / "masks" / f"{stem}.png").exists():
                    image = read_image(clip, name)
                    probability = Image.fromarray(human_labels(teacher, image[None])[0])
                    mask = np.asarray(probability.resize(image.shape[1::-1], Image.Resampling.BILINEAR)) >= 128
                    shutil.copy(clip / name, folder / "images" / f"{stem}.jpg")
                    Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{stem}.png")
            advance(1, "")
    return len(clips) * len(FRAMES)


if __name__ == "__main__":
    main()
