"""Folders of images by class, as Places365 ships them: ``train/<class>/*.jpg``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from kinet.data.clip import UnreadableClip
from kinet.data.dataset import SampleKey, Skipped
from kinet.data.images import IMAGE_SUFFIXES, read_image
from kinet.data.parsing_set import Sample, Window, crop_image
from kinet.errors import InputError
from kinet.teachers.teacher import stretch

ASPECTS = (3 / 4, 4 / 3)
"""Of random crops, width over height."""


class SceneFolder:
    """The images of ``folder/<class>/``, 1.8 million of them as names alone.

    Args:
        classes: the classes in order; by default the folders' names, sorted.

    Raises:
        InputError: no such folder, no class folders, a class that ``classes`` does not have, or no images.
    """

    def __init__(self, folder: Path, classes: Sequence[str] | None = None) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; it should hold a folder of images for each class")
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
        if not found:
            raise InputError(f"{folder}: no folders in it; it should hold one of images for each class")
        self.folder = folder
        self.classes = tuple(classes or found)
        unknown = [name for name in found if name not in self.classes]
        if unknown:
            raise InputError(
                f"{folder}: {unknown[0]} is none of the {len(self.classes)} classes of the training images"
            )
        self.names: list[str] = []
        labels: list[int] = []
        for name in found:
            with os.scandir(folder / name) as entries:
                files = sorted(e.name for e in entries if os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES)
            self.names += files
            labels += [self.classes.index(name)] * len(files)
        if not labels:
            raise InputError(f"{folder}: no images in its class folders")
        self.labels = np.array(labels, np.int16 if len(self.classes) < 2**15 else np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """An image (H, W, 3) uint8 and its class. Raises UnreadableClip."""
        label = int(self.labels[index])
        return read_image(self.folder / self.classes[label], self.names[index]), label

    def path(self, index: int) -> Path:
        return self.folder / self.classes[int(self.labels[index])] / self.names[index]


class SceneSet(Dataset["Sample | Skipped"]):
    """Random crops of the images; each depends on (seed, epoch, index) alone. Broken ones come back as ``Skipped``.

    Args:
        scales: the share of the image's area that a crop has, from and to (torchvision's RandomResizedCrop: .08, 1).
    """

    def __init__(
        self,
        images: SceneFolder,
        input_size: tuple[int, int],
        scales: tuple[float, float],
        flip: bool,
        seed: int,
    ) -> None:
        self.images = images
        self.input_size = input_size
        self.scales = scales
        self.flip = flip
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> Sample | Skipped:
        rng = np.random.default_rng((self.seed, key.epoch, key.clip))
        try:
            image, label = self.images.read(key.clip)
        except UnreadableClip as error:
            return Skipped(str(self.images.path(key.clip)), error.cause)
        top, left, height, width = random_area((image.shape[0], image.shape[1]), self.scales, rng)
        flip = self.flip and bool(rng.integers(2))
        window = Window(self.input_size, 0, 0, flip)
        cut = image[top : top + height, left : left + width]
        return Sample(crop_image(cut, window, self.input_size), torch.tensor(label))


class WholeScenes(Dataset["Sample | Skipped"]):
    """Every image whole, stretched to ``size``, as a teacher sees frames."""

    def __init__(self, images: SceneFolder, size: tuple[int, int]) -> None:
        self.images = images
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample | Skipped:
        try:
            image, label = self.images.read(index)
        except UnreadableClip as error:
            return Skipped(str(self.images.path(index)), error.cause)
        return Sample(stretch(image, self.size)[0], torch.tensor(label))


def random_area(
    size: tuple[int, int], scales: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop of a random share of the image's area and a random aspect."""
    area = size[0] * size[1] * rng.uniform(*scales)
    aspect = np.exp(rng.uniform(*np.log(ASPECTS)))
    height = int(np.clip(round(float(np.sqrt(area / aspect))), 1, size[0]))
    width = int(np.clip(round(float(np.sqrt(area * aspect))), 1, size[1]))
    top, left = rng.integers(size[0] - height + 1), rng.integers(size[1] - width + 1)
    return int(top), int(left), height, width
