"""Images and masks move together; pairs are found, read, and named when they are broken."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from kinet.data.dataset import SampleKey, Skipped
from kinet.data.parsing_set import (
    IGNORE,
    PAD,
    Labels,
    Pair,
    ParsingSet,
    Sample,
    WholePairs,
    collate,
    crop_image,
    crop_mask,
    fit,
    folder_pairs,
    random_window,
)
from kinet.data.sources import lip
from kinet.data.sources.places365 import places365
from kinet.errors import InputError

PEOPLE = Labels(("background", "person"))
APART = Labels(("background", "hat", "left", "right"), merged=False, mirrored=((2, 3),))


def painted(mask: np.ndarray) -> np.ndarray:
    """An image whose grey tells the label: 0, 60, 120 ..."""
    return np.repeat((mask * 60)[..., None], 3, axis=2).astype(np.uint8)


def inside(labels: torch.Tensor, radius: int) -> torch.Tensor:
    """Pixels whose neighbourhood has one label: there interpolated grey and nearest label must agree."""
    maps = functional.pad(labels[None].float(), (radius,) * 4, mode="replicate")
    size = 2 * radius + 1
    return (functional.max_pool2d(maps, size, 1) == -functional.max_pool2d(-maps, size, 1))[0]


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    crop=st.tuples(st.integers(20, 70), st.integers(20, 70)),
    scale=st.floats(0.6, 2.5),
    seed=st.integers(0, 2**16),
)
def test_image_and_mask_move_together(blocks: tuple[int, int], crop: tuple[int, int], scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.integers(0, 4, blocks), np.ones((12, 12), int)).astype(np.uint8)
    window = random_window(mask.shape, crop, rng, scales=(scale, scale), flip=True)  # type: ignore[arg-type]
    image = crop_image(painted(mask), window, crop)
    labels = crop_mask(mask, window, crop)
    assert image.shape == (3, *crop)
    assert labels.shape == crop
    assert image.dtype == labels.dtype == torch.uint8
    outside = labels == IGNORE
    assert (image[:, outside] == PAD).all()
    # where interpolation mixes no two labels: away from edges, also from those just beyond the crop
    radius = 1 + math.ceil(max(new / old for new, old in zip(window.scaled, mask.shape, strict=True)) / 2)
    agree = inside(labels, radius) & ~outside
    agree[:radius], agree[-radius:], agree[:, :radius], agree[:, -radius:] = False, False, False, False
    assert torch.equal(image[0][agree].int(), 60 * labels[agree].int())
    covered = (min(window.scaled[0], crop[0]), min(window.scaled[1], crop[1]))
    assert (~outside).sum() == covered[0] * covered[1]  # the crop lies inside of the image, or the image in the crop


def test_mirrored_parts_change_sides() -> None:
    mask = np.tile(np.array([[0, 1, 2, 3, 3, 2]], np.uint8), (6, 1))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(8):
        window = random_window((6, 6), (6, 6), rng, scales=(1, 1), flip=True)
        row = crop_mask(mask, window, (6, 6), APART.mirrored)[0].tolist()
        assert row == ([3, 2, 2, 3, 1, 0] if window.flip else [0, 1, 2, 3, 3, 2])
        seen.add(window.flip)
    assert seen == {False, True}


def test_scales_and_places_are_drawn_over_their_range() -> None:
    rng = np.random.default_rng(0)
    windows = [random_window((50, 100), (40, 40), rng, scales=(0.5, 2.0), flip=False) for _ in range(300)]
    widths = [window.scaled[1] for window in windows]
    assert min(widths) in range(20, 23)
    assert max(widths) in range(77, 81)
    assert all(abs(h - w / 2) <= 1 for h, w in (window.scaled for window in windows))  # the aspect is kept
    assert not any(window.flip for window in windows)
    large = [window for window in windows if window.scaled[1] > 60]
    assert min(w.right for w in large) < -15
    assert max(w.right for w in large) > -10


def test_fit_keeps_the_shape_and_stays_inside() -> None:
    assert fit((100, 200), (50, 50)) == (25, 50)
    assert fit((256, 340), (472, 472), 8) == (352, 472)
    assert fit((1000, 1), (64, 64), 8) == (64, 8)


def test_values_of_mask_files() -> None:
    values = np.array([[0, 1, 19, 255]], np.uint8)
    assert PEOPLE.of(values).tolist() == [[0, 1, 1, 1]]
    assert Labels(PEOPLE.names, ignored=255).of(values).tolist() == [[0, 1, 1, IGNORE]]
    assert Labels(lip.LABELS, merged=False, ignored=255).of(values).tolist() == [[0, 1, 19, IGNORE]]
    with pytest.raises(ValueError, match="label 255 in the mask, the classes are 0 to 19"):
        Labels(lip.LABELS, merged=False).of(values)


def write_pair(folder: Path, name: str, mask: np.ndarray, mode: str | None = None) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(painted(mask)).save(folder / "images" / f"{name}.jpg", quality=95)
    image = Image.fromarray(mask)
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    (image.convert(mode) if mode in ("1", "RGB") else image).save(folder / "masks" / f"{name}.png")


MASK = np.kron(np.array([[0, 1], [2, 3]]), np.ones((10, 12), int)).astype(np.uint8)


def test_masks_of_any_kind_of_one_channel(tmp_path: Path) -> None:
    write_pair(tmp_path, "grey", MASK)
    write_pair(tmp_path, "palette", MASK, "P")
    write_pair(tmp_path, "white", (MASK > 0).astype(np.uint8) * 255, "1")
    pairs = folder_pairs(tmp_path)
    assert [pair.image.stem for pair in pairs] == ["grey", "palette", "white"]
    for sample in map(WholePairs(pairs, PEOPLE, (32, 48), 8).__getitem__, range(3)):
        assert isinstance(sample, Sample)
        assert torch.equal(sample.target, torch.from_numpy((MASK > 0).astype(np.uint8)))
        assert sample.image.shape == (3, 32, 40)  # 20 x 24 inside of 32 x 48: 32 x 38.4, in multiples of 8


def test_broken_pairs_are_skipped_and_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "a_good", MASK)
    write_pair(tmp_path, "b_cut", MASK)
    write_pair(tmp_path, "c_colours", MASK, "RGB")
    write_pair(tmp_path, "d_label", MASK + 1)
    write_pair(tmp_path, "e_size", MASK)
    write_pair(tmp_path, "f_mask", MASK)
    write_pair(tmp_path, "g_gone", MASK)
    cut = tmp_path / "images/b_cut.jpg"
    cut.write_bytes(cut.read_bytes()[:100])
    Image.fromarray(MASK[:5]).save(tmp_path / "masks/e_size.png")
    (tmp_path / "masks/f_mask.png").write_bytes(b"no image")
    pairs = folder_pairs(tmp_path)
    (tmp_path / "masks/g_gone.png").unlink()
    training = ParsingSet(pairs, APART, (16, 16), (1, 1), True, 0)
    batch = collate([training[SampleKey(0, index)] for index in range(len(pairs))])
    assert batch.images is not None
    assert batch.images.shape == (1, 3, 16, 16)
    causes = {Path(name).stem: cause for name, cause in batch.skipped}
    expected = {
        "b_cut": "not a readable image",
        "c_colours": "one channel of labels up to 255, this image is RGB",
        "d_label": "label 4 in the mask, the classes are 0 to 3",
        "e_size": "24x20, its mask 24x5",
        "f_mask": "not an image",
        "g_gone": "No such file",
    }
    assert set(causes) == set(expected)
    assert all(words in causes[name] for name, words in expected.items())
    assert all(Path(name).suffix == ".jpg" for name, _ in batch.skipped)
    whole = WholePairs(pairs, APART, (16, 16), 8)
    assert [isinstance(whole[index], Skipped) for index in range(len(pairs))] == [False, *[True] * 6]


def test_a_sample_is_that_of_its_seed_and_epoch(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", MASK)
    training = ParsingSet(folder_pairs(tmp_path), PEOPLE, (16, 16), (0.5, 2), True, 3)
    first, again, later = (training[SampleKey(epoch, 0)] for epoch in (0, 0, 1))
    assert isinstance(first, Sample)
    assert isinstance(again, Sample)
    assert isinstance(later, Sample)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.image, later.image)


def test_images_without_masks_are_told_at_once(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", MASK)
    write_pair(tmp_path, "b", MASK)
    (tmp_path / "masks/b.png").unlink()
    with pytest.raises(InputError, match=r"1 of 2 images have no mask .* the first is b\.jpg"):
        folder_pairs(tmp_path)
    with pytest.raises(InputError, match="no such folder; image and mask pairs lie in images and masks"):
        folder_pairs(tmp_path / "images")


def test_lips_layout(tmp_path: Path) -> None:
    images, masks = tmp_path / "TrainVal_images", tmp_path / "TrainVal_parsing_annotations"
    for split, names in {"train": ["77_1", "99_2"], "val": ["5_0"]}.items():
        (images / f"{split}_images").mkdir(parents=True)
        (masks / f"{split}_segmentations").mkdir(parents=True)
        (images / f"{split}_id.txt").write_text("".join(f"{name}\n" for name in names))
    pairs = lip.lip_pairs(tmp_path, "train")
    assert pairs[1] == Pair(images / "train_images/99_2.jpg", masks / "train_segmentations/99_2.png")
    assert len(lip.lip_pairs(tmp_path, "val")) == 1
    (images / "val_id.txt").write_text("\n")
    with pytest.raises(InputError, match=r"val_id\.txt: no ids in it"):
        lip.lip_pairs(tmp_path, "val")
    with pytest.raises(InputError, match=r"no train_id\.txt here or in TrainVal_images"):
        lip.lip_pairs(images / "train_images", "train")
    assert len(lip.LABELS) == 20
    for left, right in lip.MIRRORED:
        assert lip.LABELS[left].replace("left", "right") == lip.LABELS[right]


def test_places365_names_and_where_they_are(shared: Path) -> None:
    def lines(name: str) -> dict[str, int]:
        rows = (line.split() for line in (shared / "weights" / name).read_text().splitlines())
        return {row[0][3:]: int(row[1]) for row in rows}

    scenes = places365()
    assert {scene.name: index for index, scene in enumerate(scenes)} == lines("categories_places365.txt")
    assert {scene.name: 1 if scene.indoor else 2 for scene in scenes} == lines("IO_places365.txt")


def test_places365_without_the_source() -> None:
    scenes = places365()
    assert len({scene.name for scene in scenes}) == 365
    assert sum(scene.indoor for scene in scenes) == 160
    where = {scene.name: scene.indoor for scene in scenes}
    assert where["church/indoor"]
    assert not where["golf_course"]
