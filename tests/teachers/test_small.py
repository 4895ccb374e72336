"""The small teachers learn in seconds, and label each frame by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from kinet.data.generated import SCENES, teacher_samples
from kinet.teachers.small import (
    BATCH,
    ModuleTeacher,
    SmallParser,
    SmallSceneNet,
    fit,
    mean_iou,
    prepare,
    scene_accuracy,
    train_parser,
    train_scene_net,
)
from kinet.teachers.teacher import MASK_SIZE

LEARNT, HELD_OUT = slice(0, 128), slice(128, None)
PEOPLE = ("background", "person")


@dataclass(frozen=True)
class Images:
    images: np.ndarray
    masks: np.ndarray
    scenes: np.ndarray


@pytest.fixture(scope="module")
def drawn() -> Images:
    return Images(*teacher_samples(160, seed=3))


def scene_net(drawn: Images, seed: int = 0, epochs: int = 1) -> SmallSceneNet:
    return train_scene_net(
        drawn.images[LEARNT], drawn.scenes[LEARNT], len(SCENES), epochs=epochs, seed=seed, report=lambda line: None
    )


def test_the_parser_learns_people(drawn: Images) -> None:
    lines: list[str] = []
    parser = train_parser(drawn.images[LEARNT], drawn.masks[LEARNT], epochs=8, seed=0, report=lines.append)
    held_out = drawn.images[HELD_OUT], drawn.masks[HELD_OUT]
    learnt = mean_iou(ModuleTeacher("human", parser, PEOPLE), *held_out)
    torch.manual_seed(0)
    untaught = mean_iou(ModuleTeacher("human", SmallParser(), PEOPLE), *held_out)
    nobody = 50 * (1 - drawn.masks[HELD_OUT].mean())
    assert learnt > max(untaught, nobody) + 8
    assert len(lines) == 8
    losses = [float(line.rsplit("loss ", 1)[1]) for line in lines]
    assert losses[-1] < 0.7 * losses[0]


def test_the_scene_net_learns_places(drawn: Images) -> None:
    teacher = ModuleTeacher("scene", scene_net(drawn, epochs=16), SCENES)
    assert scene_accuracy(teacher, drawn.images[HELD_OUT], drawn.scenes[HELD_OUT]) > 60  # 25 by chance


@pytest.fixture(scope="module")
def teachers() -> tuple[ModuleTeacher, ModuleTeacher]:
    torch.manual_seed(0)
    return ModuleTeacher("human", SmallParser(), PEOPLE), ModuleTeacher("scene", SmallSceneNet(4), SCENES)


def test_labels_do_not_depend_on_the_batch(drawn: Images, teachers: tuple[ModuleTeacher, ModuleTeacher]) -> None:
    frames = drawn.images[:9]
    for teacher in teachers:
        together = teacher.label_frames(frames)
        for order in ([[0], [1], [2], [3, 4, 5, 6, 7, 8]], [[8, 0], [4, 4], [2]]):
            for part in order:
                labels = teacher.label_frames(frames[part])
                for whole, one in zip(as_tuple(together), as_tuple(labels), strict=True):
                    np.testing.assert_array_equal(whole[part], one)


def as_tuple(labels: np.ndarray | tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ...]:
    return labels if isinstance(labels, tuple) else (labels,)


def test_labels_have_the_form_that_training_takes(drawn: Images, teachers: tuple[ModuleTeacher, ModuleTeacher]) -> None:
    human, scene = teachers
    masks = human.label_frames(drawn.images[:3])
    assert isinstance(masks, np.ndarray)
    assert (masks.shape, masks.dtype) == ((3, *MASK_SIZE), np.uint8)
    labels = scene.label_frames(drawn.images[:3])
    assert isinstance(labels, tuple)
    classes, scores = labels
    assert (classes.shape, scores.shape) == ((3, 4), (3, 4))
    np.testing.assert_array_equal(np.sort(classes, axis=1), [[0, 1, 2, 3]] * 3)
    np.testing.assert_allclose(np.exp(scores.astype(np.float64)).sum(axis=1), 1, atol=2e-3)
    with torch.inference_mode():
        expected = scene.network(prepare(drawn.images[:3])).argmax(dim=1)
    np.testing.assert_array_equal(classes[:, 0], expected.numpy())


def test_frames_of_any_size_are_seen_whole() -> None:
    """A frame that is white in its right half, and red in its lower half, is that to the network too."""
    for height, width in ((64, 88), (240, 320), (37, 50)):
        frames = np.zeros((2, height, width, 3), np.uint8)
        frames[:, :, width // 2 :] = 255
        frames[1, height // 2 :, :, 1:] = 0
        seen = prepare(frames)
        assert seen.shape == (2, 3, 64, 88)
        assert (seen[0, :, :, :40] == -1).all()
        assert (seen[0, :, :, 48:] == 1).all()
        assert (seen[1, 1:, 36:] == -1).all()
        assert (seen[1, 0, 36:, 48:] == 1).all()


def test_the_fingerprint_tells_weights_and_kind(teachers: tuple[ModuleTeacher, ModuleTeacher]) -> None:
    def fresh(seed: int) -> SmallSceneNet:
        torch.manual_seed(seed)
        return SmallSceneNet(4)

    first, again, other = (ModuleTeacher("scene", fresh(seed), SCENES).fingerprint for seed in (0, 0, 1))
    assert first == again
    assert first != other
    nudged = fresh(0)
    with torch.no_grad():
        nudged.classify.bias[2] += 1e-6
    assert ModuleTeacher("scene", nudged, SCENES).fingerprint != first
    statistics = fresh(0)
    statistics.trunk[0][1].running_mean[0] += 1e-6  # type: ignore[index,operator]
    assert ModuleTeacher("scene", statistics, SCENES).fingerprint != first
    assert len({teacher.fingerprint for teacher in teachers}) == 2


def test_the_seed_decides(drawn: Images) -> None:
    first, again, other = (ModuleTeacher("scene", scene_net(drawn, seed), SCENES).fingerprint for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_teacher_is_in_eval_mode_once_it_is_one() -> None:
    network = SmallParser().train()
    ModuleTeacher("human", network, PEOPLE)
    assert not any(module.training for module in network.modules())


def test_masks_are_mirrored_with_their_images() -> None:
    class Same(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parameter = torch.nn.Parameter(torch.zeros(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images + 0 * self.parameter

    seen = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(output, target, rtol=0, atol=0)
        seen.append(bool(output[0, 0, 0, 0] > output[0, 0, 0, -1]))
        return output.mean()

    torch.manual_seed(0)
    images = torch.linspace(0, 1, 8).expand(BATCH, 1, 4, 8)
    fit(Same(), images, images, loss, epochs=20, report=lambda line: None)
    assert set(seen) == {True, False}


def test_measures_of_teachers(drawn: Images) -> None:
    class Oracle(ModuleTeacher):
        def label_frames(self, frames: np.ndarray) -> np.ndarray:
            assert len(frames) == len(masks)
            resized = torch.nn.functional.interpolate(torch.from_numpy(masks)[:, None].float(), MASK_SIZE, mode="area")
            return ((resized[:, 0] > 0.5) * 255).to(torch.uint8).numpy() ^ self.flipped

    masks = drawn.masks[HELD_OUT]
    oracle = Oracle("human", SmallParser(), PEOPLE)
    oracle.flipped = np.uint8(0)  # type: ignore[attr-defined]
    assert mean_iou(oracle, drawn.images[HELD_OUT], masks) == 100
    oracle.flipped = np.uint8(255)  # type: ignore[attr-defined]
    assert mean_iou(oracle, drawn.images[HELD_OUT], masks) == 0
