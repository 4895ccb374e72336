"""How a pack stores the frames of a clip: as JPEG images, or as H.264 in groups of four frames.

Both are decoded from any frame on: a JPEG by itself, an H.264 frame from the group's first one, which carries the
decoder's settings with it. Nothing here needs torch, so that the processes that encode start fast.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
import numpy.typing as npt
import simplejpeg
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from PIL import Image

from kinet.data.clip import Frame, UnreadableClip
from kinet.data.guarded import Failure
from kinet.data.video import open_clip
from kinet.errors import InputError

Format = Literal["jpeg", "h264"]
GROUP = {"jpeg": 1, "h264": 4}
"""Frames from one that can be decoded by itself to the next."""
QUALITY = {"jpeg": (1, 100, 90), "h264": (0, 51, 18)}
"""The least, the highest and the default quality: JPEG's 1 to 100, H.264's constant rate factor, the lower the
better. The defaults are measured in docs/pack.md."""
SUFFIX = {"jpeg": "jpg", "h264": "h264"}
CHUNK = 32
"""Frames decoded at a time, which bounds the memory."""
X264 = "keyint={0}:min-keyint={0}:scenecut=0:bframes=0:ref=1:rc-lookahead=0:threads=1:repeat-headers=1:annexb=1"


@dataclass(frozen=True)
class PackSettings:
    """How frames are stored. All clips of a pack are stored alike."""

    format: Format = "jpeg"
    quality: int = QUALITY["jpeg"][2]
    short_side: int = 256
    """Frames with a larger shorter side, in pixels, are reduced to it; smaller ones stay as they are."""
    fps: float | None = None
    """Frames a second kept of clips that have more. None: all."""


@dataclass(frozen=True)
class EncodedClip:
    """A clip whose encoded frames lie one behind the other in a file."""

    sizes: npt.NDArray[np.int64]
    """(frames,) their bytes."""
    height: int
    width: int
    fps: float | None
    """Frames a second of what was kept; None of a folder of images."""
    digest: bytes
    """SHA-256 of the encoded frames."""


class Task(NamedTuple):
    """A clip to encode."""

    number: int
    """Its place in the manifest."""
    path: Path
    settings: PackSettings
    part: Path
    """Where its frames go."""


def check_settings(settings: PackSettings) -> None:
    """Raise InputError where a number is out of range, or PyAV cannot write the format."""
    least, most, _ = QUALITY[settings.format]
    if not least <= settings.quality <= most:
        raise InputError(f"--quality {settings.quality}: give {least} to {most} for --format {settings.format}")
    if settings.short_side < 16:
        raise InputError(f"--short-side {settings.short_side}: give 16 pixels or more")
    if settings.fps is not None and not 0 < settings.fps < math.inf:
        raise InputError(f"--fps {settings.fps}: give a number above 0")
    if settings.format == "h264" and "libx264" not in av.codecs_available:
        raise InputError("--format h264: this build of PyAV has no libx264; install PyAV's wheel, or take jpeg")


def encode_clip(path: Path, settings: PackSettings, part: Path) -> EncodedClip:
    """Decode the clip at ``path`` and write its frames, as ``settings`` say, into the new file ``part``.

    Memory is bounded by ``CHUNK`` frames. Raises UnreadableClip.
    """
    source = open_clip(path)
    rate = frame_rate(path)
    kept = kept_frames(len(source), rate, settings.fps, path)
    height, width = 0, 0

    def frames() -> Iterator[Frame]:
        nonlocal height, width
        for start in range(0, len(kept), CHUNK):
            for frame in source.read(kept[start : start + CHUNK]):
                small = reduce(frame, settings.short_side)
                height, width = height or small.shape[0], width or small.shape[1]
                if small.shape[:2] != (height, width):
                    raise UnreadableClip(path, "frames of different sizes")
                yield small

    sizes, digest = [], hashlib.sha256()
    encode = encode_jpeg if settings.format == "jpeg" else encode_h264
    with part.open("xb") as file:
        for data in encode(frames(), settings.quality):
            file.write(data)
            sizes.append(len(data))
            digest.update(data)
    fps = settings.fps if rate is not None and len(kept) < len(source) else rate
    return EncodedClip(np.array(sizes, np.int64), height, width, fps, digest.digest())


def frame_rate(path: Path) -> float | None:
    """The mean frames a second that a video file states; None of a folder of images, and where it states none."""
    if path.is_dir():
        return None
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            stream = container.streams.best("video")
            rate = getattr(stream, "average_rate", None)
    except (av.FFmpegError, OSError) as error:
        raise UnreadableClip(path, f"not a readable video ({error.strerror})") from error
    return float(rate) if rate else None


def kept_frames(frames: int, rate: float | None, fps: float | None, path: Path) -> npt.NDArray[np.int64]:
    """The frames nearest to the times 0, 1 / fps, 2 / fps, ... of a clip that has ``rate`` a second.

    All frames where ``fps`` is None or no lower than ``rate``. Raises UnreadableClip where the rate is not known.
    """
    if fps is None:
        return np.arange(frames)
    if rate is None:
        raise UnreadableClip(path, "states no frame rate; pack it without --fps")
    if fps >= rate:
        return np.arange(frames)
    times = np.arange(math.ceil(frames * fps / rate)) / fps
    return np.minimum((times * rate + 0.5).astype(np.int64), frames - 1)


def reduce(frame: Frame, short_side: int) -> Frame:
    """Reduce a frame (H, W, 3) to this shorter side, bicubic with antialiasing, its aspect ratio kept."""
    height, width = frame.shape[:2]
    if min(height, width) <= short_side:
        return frame
    scale = short_side / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def encode_jpeg(frames: Iterator[Frame], quality: int) -> Iterator[bytes]:
    """Each frame as a JPEG image with chroma at half the resolution."""
    for frame in frames:
        yield simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=quality, colorsubsampling="420")


def encode_h264(frames: Iterator[Frame], quality: int) -> Iterator[bytes]:
    """Each frame as one packet of an Annex B stream. Odd sides get their last row or column twice."""
    to_yuv, codec = VideoReformatter(), None
    for number, frame in enumerate(frames):
        even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        if codec is None:
            codec = open_encoder(even.shape[0], even.shape[1], quality)
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        picture = to_yuv.reformat(image, format="yuv420p", threads=1)
        picture.pts, picture.pict_type = number, PictureType.NONE
        yield from (bytes(packet) for packet in codec.encode(picture))
    if codec is not None:
        yield from (bytes(packet) for packet in codec.encode(None))


def open_encoder(height: int, width: int, quality: int) -> VideoCodecContext:
    codec = av.CodecContext.create("libx264", "w")
    assert isinstance(codec, VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
    codec.time_base, codec.framerate = Fraction(1, 25), Fraction(25)
    codec.thread_count = 1
    codec.options = {
        "preset": "faster",
        "tune": "fastdecode",
        "crf": str(quality),
        "x264-params": X264.format(GROUP["h264"]),
    }
    return codec


ReadBytes = Callable[[int, int], list[bytes]]
"""The encoded frames from the first number up to the second."""


def decode_frames(
    format: Format, read: ReadBytes, wanted: Sequence[int], height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Frames by number, in any order, repeats allowed: (len(wanted), height, width, 3) uint8 RGB.

    Raises ValueError where the bytes are not the frames that they should be.
    """
    frames = np.empty((len(wanted), height, width, 3), np.uint8)
    first: dict[int, int] = {}  # a number's first place in ``wanted``
    for place, number in enumerate(wanted):
        first.setdefault(number, place)
    decode = decode_jpeg if format == "jpeg" else decode_h264
    decode(read, {number: frames[first[number]] for number in sorted(first)})
    for place, number in enumerate(wanted):
        if place != first[number]:
            frames[place] = frames[first[number]]
    return frames


def decode_jpeg(read: ReadBytes, wanted: Mapping[int, Frame]) -> None:
    """Fill the arrays of the ``wanted`` frames."""
    for number, frame in wanted.items():
        (data,) = read(number, number + 1)
        found = simplejpeg.decode_jpeg_header(data)[:2]
        if found != frame.shape[:2]:
            raise ValueError(f"frame {number} is {found[1]}x{found[0]}, not {frame.shape[1]}x{frame.shape[0]}")
        simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=frame)


def decode_h264(read: ReadBytes, wanted: Mapping[int, Frame]) -> None:
    """As ``decode_jpeg``; frames before a wanted one in its group are decoded and dropped. Numbers rise."""
    to_rgb, codec = VideoReformatter(), av.CodecContext.create("h264", "r")
    assert isinstance(codec, VideoCodecContext)
    codec.thread_type, codec.thread_count = "NONE", 1
    groups: dict[int, list[int]] = {}
    for number in wanted:
        groups.setdefault(number - number % GROUP["h264"], []).append(number)
    for first, numbers in groups.items():
        decoded: list[av.VideoFrame] = []
        try:
            for data in read(first, numbers[-1] + 1):
                decoded += codec.decode(padded_packet(data))
            decoded += codec.decode(None)
            codec.flush_buffers()
        except av.FFmpegError as error:
            raise ValueError(f"frame {numbers[-1]}: {error.strerror}") from error
        if len(decoded) != numbers[-1] + 1 - first:
            raise ValueError(f"frame {numbers[-1]} does not decode")
        for number in numbers:
            frame, (height, width) = decoded[number - first], wanted[number].shape[:2]
            even = (height + height % 2, width + width % 2)
            if (frame.height, frame.width) != even:
                raise ValueError(f"frame {number} is {frame.width}x{frame.height}, not {even[1]}x{even[0]}")
            pixels = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
            wanted[number][:] = pixels[:height, :width]


def padded_packet(data: bytes) -> av.Packet[Any]:
    """A packet with the zeros behind it that decoders read; ``av.Packet(data)`` has none."""
    packet = av.Packet(len(data))
    packet.update(data)
    return packet


def encode_task(task: Task) -> EncodedClip | Failure:
    """``encode_clip`` in a process that may be lost: this module is quick to import there."""
    task.part.unlink(missing_ok=True)  # of a process that was
    try:
        return encode_clip(task.path, task.settings, task.part)
    except UnreadableClip as error:
        task.part.unlink(missing_ok=True)
        return Failure("error", error.cause)
