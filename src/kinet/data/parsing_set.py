"""Images with a mask of labels each: read, augmented together, in batches."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from kinet.data.clip import UnreadableClip
from kinet.data.dataset import SampleKey, Skipped
from kinet.data.images import IMAGE_SUFFIXES, read_image
from kinet.errors import InputError

IGNORE = 255
"""Label of pixels that count neither in training nor in testing."""
LABEL_MODES = ("L", "P", "1")
"""Pillow's names of images with one channel of labels: grey, palette, black and white."""
PAD = 124
"""Grey around an image that is smaller than its crop: about ImageNet's mean."""


class Pair(NamedTuple):
    image: Path
    mask: Path


@dataclass(frozen=True)
class Labels:
    """What the values in mask files mean."""

    names: tuple[str, ...]
    """The classes, background first."""
    merged: bool = True
    """Every label above 0 is a person."""
    ignored: int | None = None
    """A value that is no label."""
    mirrored: tuple[tuple[int, int], ...] = ()
    """Labels that change places in a mirror image; for labels kept apart."""

    def of(self, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Classes, and ``IGNORE``, of a mask file's values. Raises ValueError on a value that is no class."""
        classes = (values > 0).astype(np.uint8) if self.merged else values.copy()
        known = np.ones(values.shape, bool)
        if self.ignored is not None:
            known = values != self.ignored
            classes[~known] = IGNORE
        highest = int(classes[known].max(initial=0))
        if highest >= len(self.names):
            raise ValueError(f"label {highest} in the mask, the classes are 0 to {len(self.names) - 1}")
        return classes


@dataclass(frozen=True)
class Window:
    """A crop: the image at ``scaled`` (height, width) pixels, moved by (down, right), mirrored after if ``flip``.

    What lies outside of the image is padded.
    """

    scaled: tuple[int, int]
    down: int
    right: int
    flip: bool


def folder_pairs(folder: Path) -> list[Pair]:
    """``images/NAME.*`` and ``masks/NAME.png`` (or .bmp) of a folder, by name.

    Raises:
        InputError: no such folders, no images, or an image without a mask.
    """
    images = list_images(folder / "images")
    masks = {path.stem: path for path in list_images(folder / "masks") if path.suffix.lower() in (".png", ".bmp")}
    missing = [path for path in images if path.stem not in masks]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(images)} images have no mask of the same name (png or bmp) in masks;"
            f" the first is {missing[0].name}"
        )
    return [Pair(path, masks[path.stem]) for path in images]


def list_images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; image and mask pairs lie in images and masks")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not paths:
        raise InputError(f"{folder}: no images in it")
    return paths


def read_pair(pair: Pair, labels: Labels) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The image (H, W, 3) uint8 and its classes (H, W) uint8. Raises UnreadableClip."""
    image = read_image(pair.image.parent, pair.image.name)
    mask = read_mask(pair.mask, labels)
    if mask.shape != image.shape[:2]:
        sizes = f"{image.shape[1]}x{image.shape[0]}, its mask {mask.shape[1]}x{mask.shape[0]}"
        raise UnreadableClip(pair.image, f"the image is {sizes}")
    return image, mask


def read_mask(path: Path, labels: Labels) -> npt.NDArray[np.uint8]:
    """The classes (H, W) uint8 of a mask file. Raises UnreadableClip."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            if image.mode not in LABEL_MODES:
                raise ValueError(f"a mask has one channel of labels up to 255, this image is {image.mode}")
            return labels.of(np.asarray(image).astype(np.uint8))
    except UnidentifiedImageError as error:
        raise UnreadableClip(path, f"mask {path}: not an image") from error
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableClip(path, f"mask {path}: {getattr(error, 'strerror', None) or error}") from error


def fit(size: tuple[int, int], inside: tuple[int, int], multiple: int = 1) -> tuple[int, int]:
    """``size`` (height, width) scaled so that it just fits ``inside``, each side a multiple of ``multiple``."""
    scale = min(inside[0] / size[0], inside[1] / size[1])
    height, width = (max(multiple, round(side * scale / multiple) * multiple) for side in size)
    return height, width


def random_window(
    size: tuple[int, int],
    crop_size: tuple[int, int],
    rng: np.random.Generator,
    *,
    scales: tuple[float, float],
    flip: bool,
) -> Window:
    """A random crop of an image of ``size`` (H, W); at scale 1 the image just fits ``crop_size``."""
    scale = rng.uniform(*scales)
    height, width = fit(size, (max(1, round(crop_size[0] * scale)), max(1, round(crop_size[1] * scale))))
    room = crop_size[0] - height, crop_size[1] - width
    down, right = (int(rng.integers(min(0, space), max(0, space) + 1)) for space in room)
    return Window((height, width), down, right, flip and bool(rng.integers(2)))


def crop_image(image: npt.NDArray[np.uint8], window: Window, crop_size: tuple[int, int]) -> Tensor:
    """(H, W, 3) uint8 -> (3, *crop_size) uint8: bilinear, antialiased."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    scaled = functional.interpolate(pixels, window.scaled, mode="bilinear", antialias=True)
    return place(scaled[0], window, crop_size, PAD)


def crop_mask(
    mask: npt.NDArray[np.uint8], window: Window, crop_size: tuple[int, int], mirrored: Sequence[tuple[int, int]] = ()
) -> Tensor:
    """(H, W) uint8 -> *crop_size* uint8: the same window, nearest pixels, ``IGNORE`` outside of the image."""
    labels = torch.from_numpy(mask)[None, None]
    scaled = functional.interpolate(labels, window.scaled, mode="nearest-exact")
    placed = place(scaled[0], window, crop_size, IGNORE)[0]
    if window.flip:
        for left, right in mirrored:
            placed = torch.where(placed == left, right, torch.where(placed == right, left, placed))
    return placed.to(torch.uint8)


def place(scaled: Tensor, window: Window, crop_size: tuple[int, int], padding: int) -> Tensor:
    """(C, h, w) moved into (C, *crop_size); negative moves cut the image's start off."""
    placed = torch.full((len(scaled), *crop_size), padding, dtype=torch.uint8)
    rows = max(0, window.down), min(crop_size[0], window.down + scaled.shape[1])
    columns = max(0, window.right), min(crop_size[1], window.right + scaled.shape[2])
    placed[:, slice(*rows), slice(*columns)] = scaled[
        :,
        rows[0] - window.down : rows[1] - window.down,
        columns[0] - window.right : columns[1] - window.right,
    ]
    return placed.flip(2) if window.flip else placed


@dataclass(frozen=True)
class Sample:
    """One image (3, H, W) uint8 and what is to be learnt of it: a mask (H, W) uint8, or a class ()."""

    image: Tensor
    target: Tensor


@dataclass(frozen=True)
class Batch:
    """Images (B, 3, H, W) uint8 and targets (B, ...); both None if none could be read."""

    images: Tensor | None
    targets: Tensor | None
    skipped: list[Skipped]


def collate(samples: Sequence[Sample | Skipped]) -> Batch:
    """Stack the readable samples."""
    skipped = [sample for sample in samples if isinstance(sample, Skipped)]
    read = [sample for sample in samples if isinstance(sample, Sample)]
    if not read:
        return Batch(None, None, skipped)
    return Batch(torch.stack([s.image for s in read]), torch.stack([s.target for s in read]), skipped)


class ParsingSet(Dataset["Sample | Skipped"]):
    """Random crops of the pairs; each depends on (seed, epoch, index) alone. Broken pairs come back as ``Skipped``."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        labels: Labels,
        crop_size: tuple[int, int],
        scales: tuple[float, float],
        flip: bool,
        seed: int,
    ) -> None:
        self.pairs = pairs
        self.labels = labels
        self.crop_size = crop_size
        self.scales = scales
        self.flip = flip
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: SampleKey) -> Sample | Skipped:
        rng = np.random.default_rng((self.seed, key.epoch, key.clip))
        try:
            image, mask = read_pair(self.pairs[key.clip], self.labels)
        except UnreadableClip as error:
            return Skipped(str(self.pairs[key.clip].image), error.cause)
        size = image.shape[0], image.shape[1]
        window = random_window(size, self.crop_size, rng, scales=self.scales, flip=self.flip)
        mirrored = () if self.labels.merged else self.labels.mirrored
        return Sample(crop_image(image, window, self.crop_size), crop_mask(mask, window, self.crop_size, mirrored))


class WholePairs(Dataset["Sample | Skipped"]):
    """Every pair whole and at its own shape: the image just inside ``size``, the mask at its full resolution."""

    def __init__(self, pairs: Sequence[Pair], labels: Labels, size: tuple[int, int], multiple: int) -> None:
        self.pairs = pairs
        self.labels = labels
        self.size = size
        self.multiple = multiple

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample | Skipped:
        try:
            image, mask = read_pair(self.pairs[index], self.labels)
        except UnreadableClip as error:
            return Skipped(str(self.pairs[index].image), error.cause)
        size = fit((image.shape[0], image.shape[1]), self.size, self.multiple)
        return Sample(crop_image(image, Window(size, 0, 0, False), size), torch.from_numpy(mask))
