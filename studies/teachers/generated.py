"""``kinet teach human`` on drawn people, whose masks are known: mean IoU on images held out.

    python studies/teachers/generated.py [--work runs/teachers_study]

Draws 720 + 96 images of 192 x 256 (other seeds for the held-out ones) into folders of images and masks, trains with
configs/teach/human_folder_small.yaml, and writes generated.json beside this file and pspnet_generated_miou (0 to 1,
the last epoch's) into summary.json. An interrupted training goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from record import CONFIGS, HERE, add_to_summary, teach_human

from kinet.data.generated import teacher_samples
from kinet.training.run_folder import write_json

SIZE = (192, 256)
SPLITS = {"train": (720, 0), "val": (96, 1)}
"""Images and seed of each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/teachers_study"))
    parser.add_argument("--images", type=int, help="training images, for a quick look (720)")
    parser.add_argument("--epochs", type=int, help="for a quick look")
    options = parser.parse_args()
    for split, (count, seed) in SPLITS.items():
        draw(options.work / split, (options.images or count) if split == "train" else count, seed)
    arguments = ["--data.train", options.work / "train", "--data.val", options.work / "val"]
    if options.epochs:
        arguments += ["--training.epochs", options.epochs]
    result = teach_human(CONFIGS / "human_folder_small.yaml", options.work / "run", arguments)
    result |= {
        "training_images": len(list((options.work / "train/images").iterdir())),
        "held_out_images": SPLITS["val"][0],
    }
    print(json.dumps(result))
    if not (options.images or options.epochs):
        write_json(HERE / "generated.json", result)
        add_to_summary(pspnet_generated_miou=result["mean_iou"])


def draw(folder: Path, count: int, seed: int) -> None:
    """``count`` images and masks; a folder that has as many is left as it is."""
    if folder.exists() and len(list((folder / "masks").glob("*.png"))) == count:
        return
    images, masks, _ = teacher_samples(count, seed, size=SIZE)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(images[index]).save(folder / "images" / f"{index:04d}.png")
        Image.fromarray(masks[index].astype(np.uint8)).save(folder / "masks" / f"{index:04d}.png")


if __name__ == "__main__":
    main()
