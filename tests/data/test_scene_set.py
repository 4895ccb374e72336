"""Folders of images by scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinet.data.dataset import SampleKey, Skipped
from kinet.data.parsing_set import Sample
from kinet.data.scene_set import SceneFolder, SceneSet, WholeScenes, random_area
from kinet.errors import InputError


def write(path: Path, grey: int, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), grey, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for grey, name in ((10, "beach"), (90, "gym"), (200, "street")):
        for number in range(2):
            write(tmp_path / "train" / name / f"{number}.png", grey + number)
    write(tmp_path / "val/gym/0.png", 91)
    (tmp_path / "train/gym/notes.txt").write_text("no image")
    (tmp_path / "train/list.txt").write_text("no class")
    return tmp_path


def test_classes_are_folders(folder: Path) -> None:
    images = SceneFolder(folder / "train")
    assert images.classes == ("beach", "gym", "street")
    assert len(images) == 6
    read = [images.read(index) for index in range(6)]
    assert [label for _, label in read] == [0, 0, 1, 1, 2, 2]
    assert [int(image[0, 0, 0]) for image, _ in read] == [10, 11, 90, 91, 200, 201]
    val = SceneFolder(folder / "val", images.classes)
    assert val.read(0)[1] == 1  # the training's number, although it is the only class here


def test_wrong_folders_get_one_line(folder: Path) -> None:
    classes = SceneFolder(folder / "train").classes
    write(folder / "val/moon/0.png", 1)
    for path, wanted, message in (
        (folder / "val", classes, "moon is none of the 3 classes of the training images"),
        (folder / "none", None, "no such folder"),
        (folder / "train/gym", None, "no folders in it"),
    ):
        with pytest.raises(InputError, match=message):
            SceneFolder(path, wanted)
    (folder / "empty/gym").mkdir(parents=True)
    with pytest.raises(InputError, match="no images in its class folders"):
        SceneFolder(folder / "empty")


def test_samples_and_broken_images(folder: Path) -> None:
    (folder / "train/beach/1.png").write_bytes(b"\x89PNG cut")
    images = SceneFolder(folder / "train")
    training, whole = SceneSet(images, (16, 24), (0.2, 1), True, 0), WholeScenes(images, (16, 24))
    for sample in (training[SampleKey(0, 1)], whole[1]):
        assert isinstance(sample, Skipped)
        assert sample.name == str(folder / "train/beach/1.png")
    for sample in (training[SampleKey(0, 4)], whole[4]):
        assert isinstance(sample, Sample)
        assert torch.equal(sample.image, torch.full((3, 16, 24), 200, dtype=torch.uint8))
        assert sample.target == 2


def test_random_areas_are_shares_of_the_image() -> None:
    rng = np.random.default_rng(0)
    shares, aspects = [], []
    for _ in range(500):
        top, left, height, width = random_area((300, 400), (0.2, 1.0), rng)
        assert 0 <= top <= 300 - height
        assert 0 <= left <= 400 - width
        shares.append(height * width / 120_000)
        aspects.append(width / height)
    assert min(shares) > 0.15
    assert max(shares) > 0.85
    assert 0.7 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.8  # cut by the border where the area is large
