"""One clip decoded from its first frame to its last, and everything that is wrong with it."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import av.logging
from av.container import InputContainer
from av.video.stream import VideoStream

from kinet.data.container import read_claims
from kinet.data.sampling import test_indices
from kinet.data.video import MAX_PIXELS, MAX_SIDE, UnreadableClip, open_clip

BAD = (
    "missing",
    "empty",
    "unreadable",
    "not_video",
    "no_video_stream",
    "too_large",
    "undecodable",
    "timeout",
    "memory",
    "crash",
    "error",
)
"""Kinds of problem that keep training from reading a clip, or some of its frames."""
SUSPECT = ("truncated", "damaged", "short", "duration", "frame_rate", "frame_size", "extension", "duplicate")
"""Kinds of problem that training reads over."""

FORMATS = {
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".3gp"), "mov"),
    **dict.fromkeys((".mkv", ".webm"), "matroska"),
    **dict.fromkeys((".mpg", ".mpeg"), "mpeg"),
    ".avi": "avi",
    ".flv": "flv",
    ".ogv": "ogg",
    ".ts": "mpegts",
    ".wmv": "asf",
}
"""FFmpeg's name of the format that a file's name promises."""
RATES = (5, 125)  # frames a second that are not suspicious
LONGEST = 3600  # seconds
SHORTEST_SIDE = 32  # pixels
MOST_PIXELS = 36_000_000  # 8192x4320
MARGIN = 16  # pixels: codecs code whole blocks, and some containers claim those


class Problem(NamedTuple):
    kind: str  # of BAD or SUSPECT
    cause: str


@dataclass(slots=True)
class Facts:
    """What is known of a clip after its check. Zeros and empty text where it could not be told."""

    format: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    frames: int = 0
    """Frames that decoding gives."""
    rate: float = 0.0
    """Frames a second, on average, as the container says."""
    seconds: float = 0.0
    """From the first frame's time to the last one's end."""
    content: str = ""
    """Hash of a video's coded packets, so that a copy in another container of the same kind is found; of an image
    folder's decoded frames."""
    problems: list[Problem] = field(default_factory=list)

    def add(self, kind: str, cause: str) -> None:
        self.problems.append(Problem(kind, " ".join(cause.split())))


def check_clip(path: Path, segments: int) -> Facts:
    """Decode a clip, a video file or a folder of images, and read ``segments`` frames as training does.

    Never raises for a bad clip, MemoryError excepted; but the decoder may hang or crash: see ``guarded_map``.
    """
    facts = Facts()
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        facts.add("missing", "a link to nowhere" if path.is_symlink() else "no such file or folder")
        return facts
    except OSError as error:
        facts.add("unreadable", error.strerror or str(error))
        return facts
    if stat.S_ISDIR(status.st_mode):
        _check_images(path, facts)
    elif not stat.S_ISREG(status.st_mode):
        facts.add("unreadable", "neither a file nor a folder")
    elif status.st_size == 0:
        facts.add("empty", "file is empty")
    else:
        _check_video(path, segments, facts)
    if facts.frames and min(facts.width, facts.height) < SHORTEST_SIDE:
        facts.add("frame_size", f"small frames: {facts.width}x{facts.height}")
    if facts.width * facts.height > MOST_PIXELS and not any(p.kind == "too_large" for p in facts.problems):
        facts.add("frame_size", f"large frames: {facts.width}x{facts.height}")
    return facts


def _check_images(path: Path, facts: Facts) -> None:
    try:
        source = open_clip(path)
    except UnreadableClip as error:
        facts.add("empty" if "no images" in error.cause else "unreadable", error.cause)
        return
    facts.format = "images"
    digest = hashlib.blake2b(digest_size=16)
    sizes: dict[tuple[int, int], int] = {}
    refused: list[str] = []
    for number in range(len(source)):
        try:
            (frame,) = source.read([number])
        except UnreadableClip as error:
            refused.append(error.cause)
            continue
        digest.update(frame.tobytes())
        sizes.setdefault((frame.shape[1], frame.shape[0]), number)
        facts.frames += 1
    if refused:
        facts.add("undecodable", f"{len(refused)} of {len(source)} images cannot be read; the first: {refused[0]}")
    if sizes:
        facts.width, facts.height = next(iter(sizes))
        facts.content = digest.hexdigest()
        _check_one_size(sizes, facts)


def _check_one_size(sizes: dict[tuple[int, int], int], facts: Facts) -> None:
    """``sizes``: the first frame of each size (width, height)."""
    if len(sizes) > 1:
        (first, _), (second, number), *_ = sizes.items()
        facts.add(
            "undecodable",
            f"frames of {len(sizes)} sizes: {first[0]}x{first[1]}, from frame {number} on {second[0]}x{second[1]}",
        )


def _check_video(path: Path, segments: int, facts: Facts) -> None:
    with _decoder_messages() as messages:
        try:
            container = av.open(f"file:{path}", metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, MemoryError):
                raise
            said = f": {messages.first}" if messages.count else ""
            facts.add("unreadable", f"not a readable video ({error.strerror}{said})")
            _compare_end(path, facts)
            return
        with container:
            facts.format = container.format.name
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream):
                facts.add("no_video_stream", f"no video stream; it holds {_contents(container)}")
                return
            if stream.codec_context is None:
                facts.add("undecodable", "no decoder for the video stream")
                return
            if facts.format.endswith("_pipe") or facts.format in ("image2", "gif", "tty"):
                facts.add("not_video", f"an image or a text, not a video ({facts.format})")
            _decode_all(path, container, stream, messages, facts)
    if not any(problem.kind in BAD for problem in facts.problems):
        _read_as_training(path, segments, facts)


class Messages:
    """How many errors FFmpeg has told of, and the first in its words."""

    def __init__(self, log: list[tuple[int, str, str]]) -> None:
        self._log = log
        self._first = ""
        self._count = 0

    @property
    def count(self) -> int:
        self._drain()
        return self._count

    @property
    def first(self) -> str:
        self._drain()
        return self._first

    def _drain(self) -> None:
        """A broken file may cause a hundred messages a frame: none is kept for long."""
        errors = [f"{name}: {' '.join(text.split())}" for level, name, text in self._log if level <= av.logging.ERROR]
        self._log.clear()
        self._count += len(errors)
        self._first = self._first or (errors[0] if errors else "")


@contextmanager
def _decoder_messages() -> Iterator[Messages]:
    """FFmpeg's error messages in this thread, which are silent otherwise."""
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=True) as log:
            yield Messages(log)
    finally:
        av.logging.set_level(before)


def _contents(container: InputContainer) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _decode_all(path: Path, container: InputContainer, stream: VideoStream, messages: Messages, facts: Facts) -> None:
    context = stream.codec_context
    context.thread_type, context.thread_count = "NONE", 1
    facts.codec, facts.width, facts.height = context.name, context.width, context.height
    facts.rate = float(stream.average_rate or 0)
    if max(context.width, context.height) > MAX_SIDE or context.width * context.height > MAX_PIXELS:
        facts.add("too_large", f"frames of {context.width}x{context.height} pixels")
        return
    digest = hashlib.blake2b(digest_size=16)
    packets = marked = refused = 0
    cut_off = False
    begin, end = None, None
    sizes: dict[tuple[int, int], int] = {}
    failure = ""
    try:
        for packet in container.demux(stream):
            flush = not packet.size and packet.dts is None
            if not flush:
                packets += 1
                digest.update(packet)
                cut_off = packet.is_corrupt
                if packet.pts is not None:
                    begin = packet.pts if begin is None else min(begin, packet.pts)
                    end = max(packet.pts + (packet.duration or 0), end or begin)
            try:
                for frame in packet.decode():
                    sizes.setdefault((frame.width, frame.height), facts.frames)
                    facts.frames += 1
                    marked += frame.is_corrupt
            except av.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise
                refused += 1
                failure = failure or f"{error.strerror} after {facts.frames} frames"
            if flush:
                break
    except (av.FFmpegError, OSError) as error:
        if isinstance(error, MemoryError):
            raise
        facts.add("undecodable", f"reading failed after {facts.frames} frames: {error.strerror}")
    if facts.frames:
        facts.content = digest.hexdigest()
        _check_one_size(sizes, facts)
    elif not any(problem.kind == "undecodable" for problem in facts.problems):
        facts.add("undecodable", f"none of {packets} packets decodes ({failure or messages.first or 'no reason told'})")
    _compare_end(path, facts)
    time_base = stream.time_base or Fraction(0)
    if begin is not None and end is not None:
        facts.seconds = float((end - begin) * time_base)
    _compare_length(stream, packets, begin, end, cut_off, facts)
    _compare_sizes(path, facts)
    if marked or refused or messages.count:
        parts = [f"{marked} of {facts.frames} frames are marked as corrupt"] if marked else []
        parts += [f"{refused} packets are refused ({failure})"] if refused else []
        parts += [messages.first] if messages.count else []
        facts.add("damaged", "; ".join(parts))
    _check_times(facts)
    promised = FORMATS.get(path.suffix.lower())
    if promised and promised not in facts.format.split(","):
        facts.add("extension", f"{path.suffix} promises {promised}, the file holds {facts.format}")


def _compare_end(path: Path, facts: Facts) -> None:
    """A file that ends before its own structure does was cut off, or never finished."""
    size, end = path.stat().st_size, read_claims(path).end
    if end is not None and end > size:
        facts.add("truncated", f"ends after {size} of {end} bytes")


def _compare_length(
    stream: VideoStream, packets: int, begin: int | None, end: int | None, cut_off: bool, facts: Facts
) -> None:
    if any(problem.kind == "truncated" for problem in facts.problems):
        return
    if cut_off:
        facts.add("truncated", "the last packet is cut off")
    elif facts.format == "avi" and packets < stream.frames:
        facts.add("truncated", f"the header claims {stream.frames} frames, the file holds {packets}")
    elif begin is not None and end is not None and stream.duration and stream.time_base:
        claimed, missing = stream.duration, (stream.start_time or 0) + stream.duration - end
        if missing * stream.time_base > 0.5 and missing > 0.02 * claimed:
            seconds = float(claimed * stream.time_base)
            facts.add("truncated", f"the header claims {seconds:.2f} s, the file holds {facts.seconds:.2f} s")
        elif -missing * stream.time_base > 0.5 and -missing > 0.1 * claimed:
            seconds = float(claimed * stream.time_base)
            facts.add("duration", f"the header claims {seconds:.2f} s, the file holds {facts.seconds:.2f} s")


def _compare_sizes(path: Path, facts: Facts) -> None:
    for claim in read_claims(path).sizes:
        if not claim.width or not claim.height:
            continue
        if abs(claim.width - facts.width) > MARGIN or abs(claim.height - facts.height) > MARGIN:
            facts.add(
                "damaged",
                f"the header's {claim.where} claims {claim.width}x{claim.height}, "
                f"frames are {facts.width}x{facts.height}",
            )


def _check_times(facts: Facts) -> None:
    if facts.seconds > LONGEST:
        facts.add("duration", f"{facts.seconds / 60:.0f} minutes")
    if not facts.frames:
        return
    if not facts.rate or not facts.seconds:
        facts.add("frame_rate", "the file does not tell the frames' times")
    elif not RATES[0] <= facts.rate <= RATES[1]:
        facts.add("frame_rate", f"{facts.rate:g} frames a second")


def _read_as_training(path: Path, segments: int, facts: Facts) -> None:
    """The reader must give the frames that training may ask for: the first, the last, one of each segment."""
    try:
        source = open_clip(path)
        count = len(source)
        source.read([0, *test_indices(count, segments), count - 1])
    except UnreadableClip as error:
        facts.add("undecodable", error.cause)
        return
    if count > facts.frames:
        facts.add("undecodable", f"{count} frames are counted, {facts.frames} decode")
