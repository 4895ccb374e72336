"""Look Into Person (Gong et al., CVPR 2017): single people, 19 parts. Its layout on disk, as its authors ship it::

ROOT/TrainVal_images/train_images/ID.jpg                     val_images
ROOT/TrainVal_parsing_annotations/train_segmentations/ID.png val_segmentations
ROOT/TrainVal_images/train_id.txt                            val_id.txt (or right in ROOT)
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kinet.data.parsing_set import Pair
from kinet.errors import InputError

LABELS = (
    "background",
    "hat",
    "hair",
    "glove",
    "sunglasses",
    "upper-clothes",
    "dress",
    "coat",
    "socks",
    "pants",
    "jumpsuits",
    "scarf",
    "skirt",
    "face",
    "left-arm",
    "right-arm",
    "left-leg",
    "right-leg",
    "left-shoe",
    "right-shoe",
)
MIRRORED = ((14, 15), (16, 17), (18, 19))
"""Labels that change places in a mirror image."""


def lip_pairs(root: Path, split: Literal["train", "val"]) -> list[Pair]:
    """The images of the split's id list and their masks; whether the files are there shows when they are read.

    Raises:
        InputError: no id list, or an empty one.
    """
    images = root / "TrainVal_images"
    lists = [folder / f"{split}_id.txt" for folder in (images, root)]
    found = next((path for path in lists if path.is_file()), None)
    if found is None:
        raise InputError(f"{root}: no {split}_id.txt here or in TrainVal_images; give the folder of LIP as data.root")
    names = found.read_text(encoding="utf-8").split()
    if not names:
        raise InputError(f"{found}: no ids in it")
    masks = root / "TrainVal_parsing_annotations" / f"{split}_segmentations"
    return [Pair(images / f"{split}_images" / f"{name}.jpg", masks / f"{name}.png") for name in names]
