"""A folder of images as a clip, and the reading of single images."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from kinet.data.clip import Frame, Indices, UnreadableClip, check_numbers, check_size, stack_frames

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


class ImageFolder:
    """The images of a folder in the natural order of their names: frame_2 before frame_10.

    Other files and hidden ones are no frames. Only the images asked for are read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        names = [file.name for file in path.iterdir()]
        names = [n for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES and not n.startswith(".")]
        if not names:
            raise UnreadableClip(path, "no images in the folder")
        self._names = sorted(names, key=natural_order)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, indices: Indices) -> npt.NDArray[np.uint8]:
        wanted = check_numbers(indices, len(self))
        frames = ((number, read_image(self.path, self._names[number])) for number in sorted(set(wanted)))
        return stack_frames(self.path, frames, wanted)


def read_image(folder: Path, name: str) -> Frame:
    """An image of a folder, (H, W, 3) uint8 RGB. Raises UnreadableClip of the folder, the name in its cause."""
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise UnreadableClip(folder, f"{name}: {error.strerror}") from error
    if not data:
        raise UnreadableClip(folder, f"{name}: file is empty")
    try:
        return _decode_image(data, lambda w, h: check_size(folder, w, h))
    except UnidentifiedImageError as error:
        raise UnreadableClip(folder, f"{name}: not an image") from error
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableClip(folder, f"{name}: not a readable image ({error})") from error


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """A sorting key that takes digits in a name as numbers."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)], name


def _decode_image(data: bytes, check_size: Callable[[int, int], None]) -> Frame:
    """``check_size`` gets (width, height) before anything is decoded."""
    if data.startswith(b"\xff\xd8"):
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        check_size(width, height)
        decoded: Frame = simplejpeg.decode_jpeg(data, colorspace="RGB")
        return decoded
    with Image.open(io.BytesIO(data)) as image:
        check_size(*image.size)
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise ValueError("more than 8 bits a channel")
        return np.array(image.convert("RGB"))
