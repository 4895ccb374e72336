"""Clips of frames by number: video files, each frame bit for bit what a plain sequential decode gives in its place.

Nothing is sought by time and no count of a container is believed. The packets of a file are read once, and where
the headers of its pictures tell what decoding gives (see ``coded``), only the pictures that the frames asked for
need are decoded. All other files are decoded in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.stream import Discard
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from kinet.data.clip import Frame, FrameSource, Indices, UnreadableClip, check_numbers, check_size, stack_frames
from kinet.data.coded import Irregular
from kinet.data.h264 import read_h264
from kinet.data.images import ImageFolder
from kinet.data.mpeg4 import read_mpeg4
from kinet.data.selective import SelectiveDecoder

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
)
MAX_KEPT = 256 * 2**20  # bytes of packets; a longer file is decoded in order
READERS = {"h264": read_h264, "mpeg4": read_mpeg4}
"""By the codecs whose pictures are understood. Where they are not, only decoding tells the number of frames."""


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


class VideoFile:
    """The frames of a file's main video stream, decoded on one thread.

    A ``read`` whose frames all come after those of the one before goes on from there.
    The rotation that a phone writes beside the stream is applied. Frames the decoder mends are returned as it
    mends them; a packet it refuses ends the clip's readable part.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._selective = _open_selective(path)
        self._in_order = _InOrder(path)
        if self._selective is not None:
            self._length = len(self._selective)
        else:
            status = path.stat()
            self._length = _count_frames(str(path), status.st_size, status.st_mtime_ns)

    def __len__(self) -> int:
        return self._length

    def read(self, indices: Indices) -> npt.NDArray[np.uint8]:
        wanted = check_numbers(indices, len(self))
        numbers = sorted(set(wanted))
        if self._selective is not None:
            try:
                return stack_frames(self.path, self._in_rgb(self._selective.frames(numbers)), wanted)
            except (Irregular, av.FFmpegError):
                self._selective = None
        return stack_frames(self.path, self._in_rgb(self._in_order.frames(numbers)), wanted)

    def _in_rgb(self, frames: Iterator[tuple[int, av.VideoFrame]]) -> Iterator[tuple[int, Frame]]:
        to_rgb = VideoReformatter()
        for number, frame in frames:
            yield number, _pixels(self.path, to_rgb, frame)


class _InOrder:
    """Decodes from the file's start, or goes on from the last frame it gave."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoder: Iterator[av.VideoFrame] = iter(())
        self._next: int | None = None  # the number of the decoder's next frame; None: start again

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        for number in numbers:
            position, self._next = self._next, None
            if position is None or number < position:
                self._decoder, position = _decode(self._path), 0
            frame = next(islice(self._decoder, number - position, None), None)
            if frame is None:
                raise UnreadableClip(self._path, f"decoding ended before frame {number}")
            self._next = number + 1
            yield number, frame


def _open_selective(path: Path) -> SelectiveDecoder | None:
    """None if the frames of the file can only be told by decoding all of it."""
    with _open_video(path) as (container, stream):
        context = stream.codec_context
        packets = []
        size = 0
        if context.name not in READERS:
            return None
        if container.format.name == "avi":  # other formats' errors in the sound would go unnoticed
            for other in container.streams:
                if other.index != stream.index:
                    other.discard = Discard.all
        try:
            for packet in _packets(container, stream):
                if not packet.size:
                    continue
                size += packet.size
                if size > MAX_KEPT or packet.is_corrupt:
                    return None
                for side in packet.iter_sidedata():  # in most packets none: half the time of has_sidedata
                    if side.data_type == "new_extradata":
                        return None
                packets.append(packet)
            if not packets:
                return None
            coded = READERS[context.name](packets, stream)
        except (Irregular, av.FFmpegError, OSError):
            return None
    for number, picture in enumerate(coded.pictures):
        picture.packet.pts = number
    return SelectiveDecoder(coded, context) if coded.shown else None


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
        check_size(path, stream.codec_context.width, stream.codec_context.height)
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
    on frames that were cut away. Of a file that cannot be decoded to its end packets are counted as well.
    """
    path = Path(name)
    with _open_video(path) as (container, stream):
        try:
            times = [p.pts for p in _packets(container, stream) if p.size and not p.is_discard]
        except (av.FFmpegError, OSError) as error:
            raise UnreadableClip(path, f"reading failed: {error.strerror}") from error
        known = [time for time in times if time is not None]
        packets_tell = stream.codec_context.name not in READERS and (not known or known[0] == min(known))
    count = len(times)
    if count and not packets_tell:
        with suppress(UnreadableClip):
            count = sum(1 for _ in _decode(path))
    if not count:
        raise UnreadableClip(path, "no frames in the video stream")
    return count


def _pixels(path: Path, to_rgb: VideoReformatter, frame: av.VideoFrame) -> Frame:
    check_size(path, frame.width, frame.height)
    try:  # one thread: the default takes one for every core of the machine
        plane = to_rgb.reformat(frame, format="rgb24", threads=1).planes[0]
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableClip(path, f"no RGB from pixel format {frame.format.name}: {error}") from error
    lines: Frame = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    pixels = lines[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)
    return np.rot90(pixels, round(frame.rotation / 90))
