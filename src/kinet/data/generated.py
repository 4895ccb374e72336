"""A small video set made by drawing: people who move their limbs in places.

The action is movement and place together. Every movement occurs in two places and is another action in each;
every place holds two movements: whoever sees only the place, or only the person, is right half of the time
(:data:`ACTIONS`). People and places vary from clip to clip in shape, colour, light and clutter. The true masks
of people and the scenes are known, so that teachers can be trained and tested on it too. The same seed and
the same versions of NumPy, Pillow and FFmpeg give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinet.data.generated_brush import Brush, any_colour, mix, one_of
from kinet.data.generated_people import MOVEMENTS, draw_person
from kinet.data.generated_places import PLACES, paint_backdrop
from kinet.data.manifest import write_manifest
from kinet.errors import InputError

SCENES = tuple(PLACES)


class Action(NamedTuple):
    name: str
    movement: str
    scene: str


ACTIONS = (
    Action("basketball_shot", "reach", "gym"),
    Action("beach_volleyball", "reach", "beach"),
    Action("building_sandcastle", "crouch", "beach"),
    Action("karate", "kick", "gym"),
    Action("running_for_bus", "stride", "street"),
    Action("skiing", "crouch", "snow"),
    Action("snow_hiking", "stride", "snow"),
    Action("street_football", "kick", "street"),
)
ACTION_NAMES = tuple(action.name for action in ACTIONS)

CLIPS_PER_ACTION = {"train": 45, "val": 4, "test": 20}
SIZE = (96, 128)  # H, W
FRAMES = 16
FRAMES_PER_SECOND = 12

# The first number after the user's seed, which keeps the splits and the teachers' images apart.
STREAMS = {"train": 0, "val": 1, "test": 2, "teacher": 3}
SUPERSAMPLING = 2
MARGIN = 0.12  # of the frame's height, painted around it for the camera to move over


@dataclass(frozen=True, slots=True)
class GeneratedClip:
    """One clip, not yet drawn. ``name``: its path in the set's folder, which is its key in the manifests."""

    name: str
    action: int
    seed: tuple[int, ...]

    @property
    def scene(self) -> int:
        return SCENES.index(ACTIONS[self.action].scene)


@dataclass(frozen=True, slots=True)
class RenderedClip:
    """``frames`` (T, H, W, 3) uint8 RGB; ``masks`` (T, H, W) bool: where people are; the labels' indices."""

    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    action: int
    scene: int


class Shot:
    """A place, its people and its camera; ``frame(time)`` draws one image of it."""

    def __init__(self, scene: str, movement: str | None, size: tuple[int, int], rng: np.random.Generator) -> None:
        check_size(size)
        self.size = size
        self.rng = rng
        width = size[1] / size[0]
        unit = size[0] * SUPERSAMPLING
        around = round((1 + 2 * MARGIN) * unit), round((width + 2 * MARGIN) * unit)
        self.backdrop = paint_backdrop(scene, around, rng)
        self.people = [draw_person(rng, "stand", width) for _ in range(int(rng.random() < 0.25))]
        if movement is not None:
            self.people.append(draw_person(rng, movement, width))
        # Where the camera looks at the clip's start and end, and its shake, within the margin.
        self.camera = rng.uniform(0.2 * MARGIN, 1.8 * MARGIN, (2, 2)) * (1, 0.6) + (0, 0.4 * MARGIN)
        self.shake = rng.uniform(0, 0.012)
        self.ball = rng.uniform((-0.2, 0), (width + 0.2, 0.9), (2, 2)) if rng.random() < 0.4 else None
        self.ball_radius, self.ball_colour = rng.uniform(0.02, 0.05), any_colour(rng)
        self.light = np.clip(rng.normal(1.0, 0.08, 3) * rng.uniform(0.75, 1.15), 0.55, 1.3)
        self.gamma = rng.uniform(0.8, 1.25)
        self.noise = rng.uniform(2, 7)

    def frame(self, time: float) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The image (H, W, 3) uint8 and the people's mask (H, W) bool at ``time`` in 0..1 of the clip."""
        height, width = self.size
        unit = height * SUPERSAMPLING
        where = between(self.camera, time) + self.rng.normal(0, self.shake, 2)
        left, top = (round(float(w) * unit) for w in np.clip(where, 0, 2 * MARGIN))
        image = self.backdrop.crop((left, top, left + width * SUPERSAMPLING, top + unit))
        mask = Image.new("L", image.size)
        brush = Brush(image, unit)
        if self.ball is not None:
            x, y = between(self.ball, time)
            brush.ellipse((x, y), self.ball_radius, self.ball_radius, self.ball_colour)
        for person in self.people:
            x = person.hip_x(time)
            ground = image.getpixel((int(np.clip(x * unit, 0, image.width - 1)), int(person.ground * unit)))
            assert isinstance(ground, tuple)
            shadow = mix((ground[0], ground[1], ground[2]), (20, 20, 30), 0.35)
            brush.ellipse((x, person.ground), 0.16 * person.height, 0.03 * person.height, shadow)
        both = Brush(image, unit, mask=mask)
        for person in self.people:
            person.draw(both, time)
        small = np.asarray(image.reduce(SUPERSAMPLING))
        flicker = 1 + self.rng.normal(0, 0.02)
        curve = 255 * (np.arange(256) / 255)[:, None] ** self.gamma * self.light * flicker
        lit = np.take_along_axis(curve, small.reshape(-1, 3).astype(np.intp), 0).reshape(small.shape)
        noisy = lit + self.rng.standard_normal(small.shape, dtype=np.float32) * self.noise
        return np.clip(noisy, 0, 255).astype(np.uint8), np.asarray(mask.reduce(SUPERSAMPLING)) >= 128


def between(ends: NDArray[np.float64], time: float) -> NDArray[np.float64]:
    """The point at ``time`` in 0..1 on the way from ``ends[0]`` to ``ends[1]``; ends (2, 2)."""
    return np.asarray(ends[0] + (ends[1] - ends[0]) * time)


def check_size(size: tuple[int, int]) -> None:
    if min(size) < 32 or size[0] % 2 or size[1] % 2:
        raise InputError(f"size {size[0]}x{size[1]} of the generated set: give even numbers, 32 or more")


def check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:  # one word of NumPy's seeds, so that the words after it stay in their places
        raise InputError(f"seed {seed} of the generated set: give 0 to {2**32 - 1}")


def generated_clips(split: str, clips_per_action: int, seed: int) -> list[GeneratedClip]:
    """The clips of ``train``, ``val`` or ``test``, action by action. No two splits or seeds share a clip."""
    check_seed(seed)
    return [
        GeneratedClip(
            f"{split}/{action.name}/{action.name}_{index:04d}.mp4",
            label,
            (seed, STREAMS[split], label, index),
        )
        for label, action in enumerate(ACTIONS)
        for index in range(clips_per_action)
    ]


def render_clip(clip: GeneratedClip, *, size: tuple[int, int] = SIZE, frames: int = FRAMES) -> RenderedClip:
    """Draw ``frames`` images of ``size`` (H, W). The same clip gives the same pixels."""
    action = ACTIONS[clip.action]
    shot = Shot(action.scene, action.movement, size, np.random.default_rng(clip.seed))
    images, masks = zip(*(shot.frame(time) for time in np.linspace(0, 1, frames)), strict=True)
    return RenderedClip(np.stack(images), np.stack(masks), clip.action, clip.scene)


def teacher_samples(
    count: int, seed: int, *, size: tuple[int, int] = SIZE
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.int64]]:
    """Single images for the teachers: images (N, H, W, 3) uint8, person masks (N, H, W) bool, scenes (N,) int64.

    Scenes take turns; any movement occurs in any of them, and one image in ten has nobody who moves. None of
    the images is in a clip of :func:`generated_clips`.
    """
    check_seed(seed)
    images = np.empty((count, *size, 3), np.uint8)
    masks = np.empty((count, *size), bool)
    scenes = np.arange(count, dtype=np.int64) % len(SCENES)
    for index, scene in enumerate(scenes):
        rng = np.random.default_rng((seed, STREAMS["teacher"], index))
        movement = None if rng.random() < 0.1 else one_of(rng, MOVEMENTS)
        images[index], masks[index] = Shot(SCENES[scene], movement, size, rng).frame(rng.uniform())
    return images, masks, scenes


def encode_clip(frames: NDArray[np.uint8], path: Path) -> None:
    """Write (T, H, W, 3) uint8 RGB frames as MP4: H.264 where FFmpeg was built with x264, else MPEG-4.

    One thread, and no time of writing in the file: the same frames give the same bytes.
    """
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        if "libx264" in av.codecs_available:
            stream = container.add_stream(
                "libx264", FRAMES_PER_SECOND, options={"preset": "veryfast", "crf": "18", "bf": "0"}
            )
        else:
            stream = container.add_stream("mpeg4", FRAMES_PER_SECOND, options={"qmax": "4", "flags": "+bitexact"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, FRAMES_PER_SECOND)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_generated_set(
    folder: Path,
    *,
    clips_per_action: Mapping[str, int] = CLIPS_PER_ACTION,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    frames: int = FRAMES,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Write ``folder/SPLIT/ACTION/CLIP.mp4`` and the manifests ``folder/SPLIT.csv`` (columns path,label).

    ``clips_per_action``: for each of train, val, test as wanted; ``progress(done, total)`` is called after each
    clip. Returns each split's manifest. Raises InputError for an unknown split, an odd size, a negative seed,
    and where files cannot be written.
    """
    for split in clips_per_action:
        if split not in ("train", "val", "test"):
            raise InputError(f"split {split!r} of the generated set: give train, val or test")
    splits = {split: generated_clips(split, count, seed) for split, count in clips_per_action.items()}
    total = sum(len(clips) for clips in splits.values())
    done = 0
    manifests = {}
    for split, clips in splits.items():
        for clip in clips:
            path = folder / clip.name
            images = render_clip(clip, size=size, frames=frames).frames
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                encode_clip(images, path)
            except OSError as error:
                raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
            done += 1
            if progress is not None:
                progress(done, total)
        manifests[split] = folder / f"{split}.csv"
        write_manifest(manifests[split], ((clip.name, ACTION_NAMES[clip.action]) for clip in clips))
    return manifests
