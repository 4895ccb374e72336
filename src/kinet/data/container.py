"""What a video file's own structure claims: where it ends, and how large its frames are.

FFmpeg reads on where these claims are wrong, and corrects them without a word; a scan compares them with what
decoding gives. Two formats are known: RIFF (avi; Microsoft, "AVI RIFF File Reference") and the boxes of ISO
14496-12 (mp4, mov, m4v, 3gp). Nothing is trusted: every size is held against the bytes that are there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot"})
DATA_BOXES = FIRST_BOXES | {b"moof", b"mfra"}
HOLDER = {b"moov": b"", b"trak": b"moov", b"mdia": b"trak", b"minf": b"mdia", b"stbl": b"minf"}
"""The boxes that are looked into, each with the one that holds it."""


class FrameSize(NamedTuple):
    """The size in pixels that the field ``where`` claims."""

    where: str
    width: int
    height: int


@dataclass(frozen=True)
class Claims:
    """``end``: bytes that the file should have, None where the format does not tell. ``sizes``: of its video."""

    end: int | None
    sizes: list[FrameSize]


class Part(NamedTuple):
    """A box or chunk: its name, the first byte of its content, the byte after its last as claimed."""

    name: bytes
    start: int
    end: int


def read_claims(path: Path) -> Claims:
    """The claims of a file; empty ones for a format that is not known. Raises OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"AVI ":
            parts = list(_chunks(file, 0, size))
            end = max(part.end for part in parts if part.name == b"RIFF")  # large files have several
            return Claims(end, _avi_sizes(file, min(parts[0].end, size)))
        if head[4:8] in FIRST_BOXES:
            parts = list(_boxes(file, 0, size)) or [Part(head[4:8], 0, size)]
            return Claims(max(part.end for part in parts if part.name in DATA_BOXES), _iso_sizes(file, parts, size))
    return Claims(None, [])


def _chunks(file: BinaryIO, start: int, end: int) -> Iterator[Part]:
    """RIFF chunks; the last may claim an end behind ``end``."""
    while start + 8 <= end:
        name, size = struct.unpack("<4sI", _at(file, start, 8))
        yield Part(name, start + 8, start + 8 + size)
        start += 8 + size + size % 2


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[Part]:
    """ISO boxes; the last may claim an end behind ``end``."""
    while start + 8 <= end:
        size, name = struct.unpack(">I4s", _at(file, start, 8))
        head = 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack(">Q", _at(file, start + 8, 8))
            head = 16
        elif size == 0:
            size = end - start
        if size < head:
            return
        yield Part(name, start + head, start + size)
        start += size


def _avi_sizes(file: BinaryIO, end: int) -> list[FrameSize]:
    sizes = []
    for header in _lists(file, 12, end, b"hdrl"):
        for part in _chunks(file, header.start + 4, min(header.end, end)):
            if part.name == b"avih" and len(data := _at(file, part.start, 40)) == 40:
                sizes.append(FrameSize("avih", *struct.unpack("<II", data[32:])))
        for stream in _lists(file, header.start + 4, min(header.end, end), b"strl"):
            parts = {part.name: part for part in _chunks(file, stream.start + 4, min(stream.end, end))}
            if b"strh" in parts and b"strf" in parts and _at(file, parts[b"strh"].start, 4) == b"vids":
                data = _at(file, parts[b"strf"].start, 12)
                if len(data) == 12:
                    width, height = struct.unpack("<ii", data[4:])
                    sizes.append(FrameSize("strf", abs(width), abs(height)))  # negative: rows from the top
    return sizes


def _lists(file: BinaryIO, start: int, end: int, kind: bytes) -> Iterator[Part]:
    for part in _chunks(file, start, end):
        if part.name == b"LIST" and _at(file, part.start, 4) == kind:
            yield part


def _iso_sizes(
    file: BinaryIO, boxes: list[Part], end: int, holder: bytes = b"", video: bool = False
) -> list[FrameSize]:
    """Sample entries' sizes (``avc1``, ``mp4v``, ...) of the tracks whose handler is video."""
    sizes = []
    for box in boxes:
        inner = min(box.end, end)
        if box.name == b"hdlr":
            video = _at(file, box.start + 8, 4) == b"vide"
        elif HOLDER.get(box.name) == holder:
            sizes += _iso_sizes(file, list(_boxes(file, box.start, inner)), inner, box.name, video)
        elif box.name == b"stsd" and video and len(entry := _at(file, box.start + 8, 36)) == 36:
            sizes.append(FrameSize(entry[4:8].decode("ascii", "replace"), *struct.unpack(">HH", entry[32:])))
    return sizes


def _at(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)
