"""One clip decoded from its first frame to its last, and everything that is wrong with it."""

from __future__ import annotations

import hashlib
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import av
import av.logging
from av.container import InputContainer
from av.video.stream import VideoStream

from kinet.data.clip import MAX_PIXELS, MAX_SIDE, UnreadableClip
from kinet.data.container import Claims, read_claims
from kinet.data.sampling import test_indices
from kinet.data.video import open_clip

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
    sizes = Counter[tuple[int, int]]()
    refused: list[str] = []
    for number in range(len(source)):
        try:
            (frame,) = source.read([number])
        except UnreadableClip as error:
            refused.append(error.cause)
            continue
        digest.update(frame.tobytes())
        sizes[frame.shape[1], frame.shape[0]] += 1
        facts.frames += 1
    if refused:
        facts.add("undecodable", f"{len(refused)} of {len(source)} images cannot be read; the first: {refused[0]}")
    if sizes:
        facts.width, facts.height = next(iter(sizes))
        facts.content = digest.hexdigest()
        _check_one_size(sizes, facts)


def _check_one_size(sizes: Counter[tuple[int, int]], facts: Facts) -> None:
    if len(sizes) > 1:
        text = ", ".join(f"{count} of {width}x{height}" for (width, height), count in list(sizes.items())[:3])
        facts.add("undecodable", f"frames of {len(sizes)} sizes: {text}")


def _check_video(path: Path, segments: int, facts: Facts) -> None:
    with _decoder_messages() as messages:
        try:
            container = av.open(f"file:{path}", metadata_errors="replace")
        except MemoryError:
            raise
        except (av.FFmpegError, OSError) as error:
            said = f": {messages.first}" if messages.count else ""
            facts.add("unreadable", f"not a readable video ({error.strerror}{said})")
            _compare_end(path, read_claims(path), facts)
            return
        with container:
            facts.format = container.format.name
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream):
                held = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
                facts.add("no_video_stream", f"no video stream; it holds {held}")
            elif stream.codec_context is None:
                facts.add("undecodable", "no decoder for the video stream")
            else:
                _check_stream(path, container, stream, messages, facts)
    if not any(problem.kind in BAD for problem in facts.problems):
        _read_as_training(path, segments, facts)


def _check_stream(path: Path, container: InputContainer, stream: VideoStream, messages: Messages, facts: Facts) -> None:
    context = stream.codec_context
    facts.codec, facts.width, facts.height = context.name, context.width, context.height
    facts.rate = float(stream.average_rate or 0)
    if facts.format.endswith("_pipe") or facts.format in ("image2", "tty"):
        facts.add("not_video", f"an image or a text, not a video ({facts.format})")
    if max(context.width, context.height) > MAX_SIDE or context.width * context.height > MAX_PIXELS:
        facts.add("too_large", f"frames of {context.width}x{context.height} pixels")
        return
    found = _decode(container, stream)
    facts.frames = sum(found.sizes.values())
    facts.content = found.content if facts.frames else ""
    if found.broken_off:
        facts.add("undecodable", f"reading failed after {facts.frames} frames: {found.broken_off}")
    elif not facts.frames:
        reason = found.refusal or messages.first or "no reason told"
        facts.add("undecodable", f"none of {found.packets} packets decodes ({reason})")
    if found.begin is not None and found.end is not None and stream.time_base is not None:
        facts.seconds = float((found.end - found.begin) * stream.time_base)
    claims = read_claims(path)
    _check_one_size(found.sizes, facts)
    if not _compare_end(path, claims, facts):
        _compare_length(stream, found, facts)
    _compare_sizes(claims, facts)
    _check_damage(found, messages, facts)
    _check_times(facts)
    promised = FORMATS.get(path.suffix.lower())
    if promised and promised not in facts.format.split(","):
        facts.add("extension", f"{path.suffix} promises {promised}, the file holds {facts.format}")


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


@dataclass(slots=True)
class Decoded:
    """What a sequential decode of a video stream gave."""

    packets: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How many frames have the size (width, height), in the order the sizes turn up."""
    marked: int = 0
    """Frames that the decoder says it had to mend."""
    refused: int = 0
    """Packets that it could not decode, and why the first one."""
    refusal: str = ""
    broken_off: str = ""
    """Why the file could not be read to its end."""
    cut_off: bool = False
    """The last packet is not whole."""
    begin: int | None = None
    """The first frame's time and the last one's end, in the stream's time base."""
    end: int | None = None
    content: str = ""


def _decode(container: InputContainer, stream: VideoStream) -> Decoded:
    """Decode the stream on one thread, going on behind packets that are refused."""
    stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
    found = Decoded()
    digest = hashlib.blake2b(digest_size=16)
    try:
        for packet in container.demux(stream):
            last = not packet.size and packet.dts is None  # it makes the decoder give the frames it has kept
            if not last:
                found.packets += 1
                found.cut_off = packet.is_corrupt
                digest.update(packet)
                if packet.pts is not None:
                    end = packet.pts + (packet.duration or 0)
                    found.begin = packet.pts if found.begin is None else min(packet.pts, found.begin)
                    found.end = end if found.end is None else max(end, found.end)
            _decode_packet(packet, found)
            if last:  # PyAV goes on to flush other streams, and fails
                break
    except MemoryError:
        raise
    except (av.FFmpegError, OSError) as error:
        found.broken_off = error.strerror or str(error)
    found.content = digest.hexdigest()
    return found


def _decode_packet(packet: av.Packet[VideoStream], found: Decoded) -> None:
    try:
        for frame in packet.decode():
            found.sizes[frame.width, frame.height] += 1
            found.marked += frame.is_corrupt
    except MemoryError:
        raise
    except av.FFmpegError as error:
        found.refused += 1
        found.refusal = found.refusal or error.strerror or str(error)


def _compare_end(path: Path, claims: Claims, facts: Facts) -> bool:
    """Whether the file ends before its own structure does: it was cut off, or never finished."""
    size = path.stat().st_size
    if claims.end is None or claims.end <= size:
        return False
    facts.add("truncated", f"ends after {size} of {claims.end} bytes")
    return True


def _compare_length(stream: VideoStream, found: Decoded, facts: Facts) -> None:
    if found.cut_off:
        facts.add("truncated", "the last packet is cut off")
        return
    if facts.format == "avi" and found.packets < stream.frames:
        facts.add("truncated", f"the header claims {stream.frames} frames, the file holds {found.packets}")
        return
    if found.end is None or not stream.duration or stream.time_base is None:
        return
    missing = (stream.start_time or 0) + stream.duration - found.end
    text = f"the header claims {float(stream.duration * stream.time_base):.2f} s, the file holds {facts.seconds:.2f} s"
    if missing * stream.time_base > 0.5 and missing > 0.02 * stream.duration:
        facts.add("truncated", text)
    elif -missing * stream.time_base > 0.5 and -missing > 0.1 * stream.duration:
        facts.add("duration", text)


def _compare_sizes(claims: Claims, facts: Facts) -> None:
    frames = f"frames are {facts.width}x{facts.height}"
    for where, width, height in claims.sizes:
        if width and height and max(abs(width - facts.width), abs(height - facts.height)) > MARGIN:
            facts.add("damaged", f"the header's {where} claims {width}x{height}, {frames}")


def _check_damage(found: Decoded, messages: Messages, facts: Facts) -> None:
    parts = [f"{found.marked} of {facts.frames} frames are marked as corrupt"] if found.marked else []
    parts += [f"{found.refused} of {found.packets} packets are refused ({found.refusal})"] if found.refused else []
    parts += [messages.first] if messages.count else []
    if parts:
        facts.add("damaged", "; ".join(parts))


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
