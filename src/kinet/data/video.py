"""Frames of a clip by their number: a video file, or a folder of images.

A frame's number is its place in the order a plain sequential decode gives, and ``read`` returns what that
decode gives, bit for bit. Nothing is sought by time: in avi files times may be off by a frame.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import numpy.typing as npt
import simplejpeg
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
)
MAX_SIDE = 16_384  # pixels
MAX_PIXELS = 100_000_000
# XviD and DivX write packets that give no frame, and only decoding tells which.
CODECS_COUNTED_BY_DECODING = frozenset({"mpeg4"})
Frame = npt.NDArray[np.uint8]  # (H, W, 3) RGB


class UnreadableClip(Exception):
    """A clip that cannot be read: ``path``, and ``cause`` in one line."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(path, cause)  # both, so that it survives the way back from a worker process
        self.path = path
        self.cause = " ".join(cause.split())

    def __str__(self) -> str:
        return f"{self.path}: {self.cause}"


class FrameSource(Protocol):
    """The frames of one clip. ``len`` is their exact number, at least 1."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Frames by number, in any order, repeats allowed: (len(indices), H, W, 3) uint8 RGB.

        Raises UnreadableClip, and IndexError for a number outside [0, len).
        """
        ...


def open_clip(path: Path) -> FrameSource:
    """The clip at ``path``: a video file, or a folder of images (jpeg, png, bmp, webp).

    Raises UnreadableClip.
    """
    try:
        if path.is_dir():
            return ImageFolder(path)
        if not path.exists():
            raise UnreadableClip(path, "missing")
        if path.stat().st_size == 0:
            raise UnreadableClip(path, "file is empty")
        return VideoFile(path)
    except OSError as error:
        raise UnreadableClip(path, error.strerror or str(error)) from error


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

    def read(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        wanted = _checked(indices, len(self))
        frames = {number: read_image(self.path, self._names[number]) for number in sorted(set(wanted))}
        return _stack(self.path, frames, wanted)


def read_image(folder: Path, name: str) -> Frame:
    """An image of a folder, (H, W, 3) uint8 RGB. Raises UnreadableClip of the folder, the name in its cause."""
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise UnreadableClip(folder, f"{name}: {error.strerror}") from error
    if not data:
        raise UnreadableClip(folder, f"{name}: file is empty")
    try:
        return _decode_image(data, lambda w, h: _check_size(folder, w, h))
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


class VideoFile:
    """The frames of a file's main video stream, decoded in order on one thread.

    A ``read`` goes on where the last one stopped if all its frames come later, else from the file's start.
    The rotation that a phone writes beside the stream is applied. Frames the decoder mends are returned as it
    mends them; a packet it refuses ends the clip's readable part.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        status = path.stat()
        self._length = _count_frames(str(path), status.st_size, status.st_mtime_ns)
        self._decoder: Iterator[av.VideoFrame] = iter(())
        self._next: int | None = None  # the number of the decoder's next frame; None: start again

    def __len__(self) -> int:
        return self._length

    def read(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        wanted = _checked(indices, len(self))
        frames: dict[int, Frame] = {}
        to_rgb = VideoReformatter()
        for number in sorted(set(wanted)):
            frames[number] = _pixels(self.path, to_rgb, self._decode_until(number))
        return _stack(self.path, frames, wanted)

    def _decode_until(self, number: int) -> av.VideoFrame:
        position, self._next = self._next, None
        if position is None or number < position:
            self._decoder, position = _decode(self.path), 0
        frame = next(islice(self._decoder, number - position, None), None)
        if frame is None:
            raise UnreadableClip(self.path, f"decoding ended before frame {number} of {len(self)}")
        self._next = number + 1
        return frame


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        container = av.open(f"file:{path}", metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise UnreadableClip(path, f"not a readable video ({error.strerror})") from error
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise UnreadableClip(path, "no video stream")
        if stream.codec_context is None:
            raise UnreadableClip(path, "no decoder for the video stream")
        _check_size(path, stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        yield container, stream


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """The stream's packets and the empty one that makes the decoder give its last frames.

    PyAV then goes on to flush streams that turned up while reading, and fails with an IndexError.
    """
    for packet in container.demux(stream):
        yield packet
        if not packet.size and packet.dts is None:
            return


def _decode(path: Path) -> Iterator[av.VideoFrame]:
    count = 0
    with _open_video(path) as (container, stream):
        try:
            for packet in _packets(container, stream):
                for frame in packet.decode():
                    yield frame
                    count += 1
        except (av.FFmpegError, OSError) as error:
            where = f"after frame {count - 1}" if count else "before the first frame"
            raise UnreadableClip(path, f"decoding failed {where}: {error.strerror}") from error


@lru_cache(maxsize=2**15)
def _count_frames(name: str, size: int, modified: int) -> int:
    """How many frames decoding gives; ``size`` and ``modified`` make the cache forget a changed file.

    The container's header is not asked: it knows nothing of a file cut short. Packets are counted, unless
    some may give no frame: by the codec, or because they are shown before the stream's first frame and lean
    on frames that were cut away.
    """
    path = Path(name)
    with _open_video(path) as (container, stream):
        packets_tell = stream.codec_context.name not in CODECS_COUNTED_BY_DECODING
        if packets_tell:
            try:
                times = [p.pts for p in _packets(container, stream) if p.size and not p.is_discard]
            except (av.FFmpegError, OSError) as error:
                raise UnreadableClip(path, f"reading failed: {error.strerror}") from error
            count = len(times)
            known = [time for time in times if time is not None]
            packets_tell = not known or known[0] == min(known)
    if not packets_tell:
        count = sum(1 for _ in _decode(path))
    if not count:
        raise UnreadableClip(path, "no frames in the video stream")
    return count


def _pixels(path: Path, to_rgb: VideoReformatter, frame: av.VideoFrame) -> Frame:
    _check_size(path, frame.width, frame.height)
    try:  # one thread: the default takes one for every core of the machine
        pixels = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableClip(path, f"no RGB from pixel format {frame.format.name}: {error}") from error
    return np.asarray(np.rot90(pixels, round(frame.rotation / 90)), dtype=np.uint8)


def _check_size(path: Path, width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise UnreadableClip(path, f"frames of {width}x{height} pixels are too large")


def _checked(indices: Sequence[int] | npt.NDArray[np.int64], length: int) -> list[int]:
    numbers = [int(index) for index in indices]
    for number in numbers:
        if not 0 <= number < length:
            raise IndexError(f"frame {number} of a clip of {length}")
    return numbers


def _stack(path: Path, frames: dict[int, Frame], wanted: list[int]) -> npt.NDArray[np.uint8]:
    if not wanted:
        return np.empty((0, 0, 0, 3), np.uint8)
    (first, example), *others = frames.items()
    for number, frame in others:
        if frame.shape != example.shape:
            sizes = f"frame {first} is {_size(example)}, frame {number} is {_size(frame)}"
            raise UnreadableClip(path, f"frames of different sizes ({sizes})")
    return np.stack([frames[number] for number in wanted])


def _size(frame: Frame) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"
