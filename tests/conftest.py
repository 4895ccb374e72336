"""Fixtures that several folders of tests use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from kinet.config import Config, DataConfig, LossConfig, ModelConfig, TrainingConfig
from kinet.data.manifest import Clip, read_manifest, write_manifest
from kinet.teachers.labelling import Labelling
from kinet.teachers.teacher import FrameLabels, Frames, best_scenes, masks_from_probabilities
from kinet.training.engine import train

torch.set_num_threads(1)  # networks are tiny here: threads that wait for each other cost more, on a busy machine 20 x
settings.register_profile("repeatable", derandomize=True, deadline=None)  # the same examples in every run
settings.load_profile("repeatable")
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips and weights beside the repository, or KINET_SHARED; skips where there is none."""
    folder = Path(os.environ.get("KINET_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "weights").is_dir():
        pytest.skip(f"real clips and weights are not at {folder} (set KINET_SHARED to their folder)")
    return folder


COLOURS = {"diving": (30, 60, 160), "hiking": (40, 140, 50), "sunbathing": (180, 140, 60)}


@dataclass(frozen=True)
class PaintedLabels:
    """A label source that reads the toy clips: white is person, the class is the scene (of three)."""

    def labels(self, clip: Clip, indices: np.ndarray, frames: Frames) -> FrameLabels:
        assert len(indices) == len(frames)
        human = masks_from_probabilities((frames.min(axis=3) > 200).astype(np.float32))
        scores = np.log(np.full((len(frames), 3), 0.05, np.float32) + 0.85 * (np.arange(3) == clip.label))
        return FrameLabels(human, *best_scenes(scores))


@dataclass(frozen=True)
class ToySet:
    """Clips of images: a white "person" walks over a place in its class's colour, so that networks learn it fast.

    ``train.csv`` has 4 clips of each of 3 classes, ``val.csv`` 2. Tests leave the folder as it is.
    """

    folder: Path
    train: Path
    val: Path
    labelling: Labelling

    @property
    def classes(self) -> list[str]:
        return list(COLOURS)

    def tsn(self, out: Path) -> Config:
        """A training of a second or two."""
        return Config(
            out=str(out),
            model=ModelConfig(
                backbone="resnet10_narrow", weights="none", auxiliaries=[], cbi=[], akg="none", dropout=0.2
            ),
            data=DataConfig(
                train=str(self.train),
                val=str(self.val),
                frame_size=(64, 80),
                input_size=64,
                batch_size=4,
                workers=0,
            ),
            loss=LossConfig(human=1.0, scene=0.1),
            training=TrainingConfig(
                epochs=2, lr=0.02, milestones=[], precision="32-true", device="cpu", clip_norm=5, log_every=1
            ),
        )

    def kinet(self, out: Path) -> Config:
        """The same with branches, integration and graph."""
        config = self.tsn(out)
        model = replace(config.model, auxiliaries=["scene", "human"], cbi=["res4", "res5"], akg="dot", akg_scale=True)
        return replace(config, model=model)

    def manifest(self, path: Path, *extra: tuple[Path, str], clips: int = 12) -> Path:
        """A manifest of the first training clips and of ``extra`` ones."""
        rows = [(str(clip.path), self.classes[clip.label]) for clip in read_manifest(self.train)][:clips]
        write_manifest(path, [*rows, *((str(clip), label) for clip, label in extra)])
        return path


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToySet:
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    for split, count in {"train": 4, "val": 2}.items():
        rows = []
        for label in COLOURS:
            for number in range(count):
                name = f"{split}/{label}/{number}"
                paint_clip(folder / name, COLOURS[label], 6, rng)
                rows.append((name, label))
        write_manifest(folder / f"{split}.csv", rows)
    labelling = Labelling(PaintedLabels(), ("sea", "wood", "sand"))
    return ToySet(folder, folder / "train.csv", folder / "val.csv", labelling)


def paint_clip(folder: Path, colour: Sequence[int], frames: int, rng: np.random.Generator) -> None:
    """A clip of 64 x 80 images; the person is a rectangle of 32 x 16."""
    folder.mkdir(parents=True)
    top, left = rng.integers(0, 32), rng.integers(0, 40)
    for number in range(frames):
        image = np.clip(rng.normal(colour, 12, (64, 80, 3)), 0, 180).astype(np.uint8)
        image[top : top + 32, left + 4 * number : left + 4 * number + 16] = 255
        Image.fromarray(image).save(folder / f"{number}.png")


@pytest.fixture(scope="session")
def tsn_run(toy: ToySet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training of TSN on the toy clips. Tests copy it before they change it."""
    config = toy.tsn(tmp_path_factory.mktemp("runs") / "tsn")
    train(config)
    return Path(config.out)


@pytest.fixture(scope="session")
def kinet_run(toy: ToySet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``tsn_run``, of KINet."""
    config = toy.kinet(tmp_path_factory.mktemp("runs") / "kinet")
    train(config, labelling=toy.labelling)
    return Path(config.out)


@pytest.fixture(scope="session")
def sound_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mp4 without a video stream."""
    path = tmp_path_factory.mktemp("sound") / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
