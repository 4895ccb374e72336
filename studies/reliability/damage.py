"""Damaged files made from whole clips, the same for a seed: one function a kind of damage.

``make_files`` writes them; ``KINDS`` names what there is.
"""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from kinet.data.video import open_clip

ENCODINGS = (
    ("h264_index_last.mp4", "libx264", {"bf": "2"}, {}),
    ("h264_index_first.mp4", "libx264", {"bf": "2"}, {"movflags": "faststart"}),
    ("h264_fragments.mp4", "libx264", {"bf": "0"}, {"movflags": "frag_keyframe+empty_moov"}),
    ("h264.mkv", "libx264", {"bf": "2"}, {}),
    ("h264.ts", "libx264", {"bf": "0"}, {}),
    ("hevc.mp4", "libx265", {"x265-params": "log-level=none:pools=none:frame-threads=1"}, {}),
    ("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, {}),
    ("mpeg4.mp4", "mpeg4", {}, {}),
    ("mpeg4.avi", "mpeg4", {"bf": "2"}, {}),
    ("mpeg2.mpg", "mpeg2video", {}, {}),
    ("mjpeg.avi", "mjpeg", {}, {}),
)
"""File name, codec, its options, the container's options: what the original clips lack."""
ENCODED_FRAMES = 40
ENCODED_SIZE = (160, 120)
SIZE_FIELDS = {b"avih": (32, 36, "<I"), b"strf": (4, 8, "<i"), b"avc1": (24, 26, ">H"), b"mp4v": (24, 26, ">H")}
SIZE_FIELDS |= {b"hvc1": (24, 26, ">H"), b"hev1": (24, 26, ">H"), b"tkhd": (76, 80, ">I")}
"""Where width and height lie behind a header's name (behind name and size in avi files), and how they are written."""
COUNT_FIELDS = {b"avih": (16, "<I"), b"strh": (32, "<I"), b"stsz": (8, ">I"), b"stts": (4, ">I"), b"stsc": (4, ">I")}
COUNT_FIELDS |= {b"stco": (4, ">I"), b"ctts": (4, ">I"), b"mvhd": (16, ">I"), b"mdhd": (16, ">I")}
AVI_HEADERS = frozenset({b"avih", b"strf", b"strh"})
CHUNKS = (b"moov", b"trak", b"stbl", b"stsd", b"mdat", b"avcC", b"esds", b"hvcC", b"RIFF", b"LIST", b"movi", b"idx1")
CHUNKS += (b"strf", b"strh", b"00dc", b"moof", b"trun")
SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".mpg", ".ts", ".flv", ".wmv", ".ogv")


@dataclass(frozen=True)
class Damaged:
    """A file that was made: its ``name`` in the folder, what was done to it, the clip it comes from."""

    name: str
    kind: str
    source: Path | None


@dataclass(frozen=True)
class Sources:
    """Whole clips: small video files, and folders of images."""

    videos: Sequence[Path]
    folders: Sequence[Path]


def find_sources(data: Path, folder: Path, largest: int = 200_000) -> Sources:
    """Video files of up to ``largest`` bytes and image folders in ``data``, and encodings written to ``folder``.

    mp4 files are taken up to five times as large: there are few.
    """
    videos = sorted(path for path in data.rglob("*") if path.suffix in (".avi", ".mp4"))
    small = [path for path in videos if path.stat().st_size <= largest * (5 if path.suffix == ".mp4" else 1)]
    folders = sorted({path.parent for path in data.rglob("*.jpg")})
    encoded = [encode(videos[0], folder / name, *how) for name, *how in ENCODINGS]
    return Sources([*small, *encoded], folders)


def encode(source: Path, path: Path, codec: str, options: dict[str, str], container_options: dict[str, str]) -> Path:
    """The first frames of a clip, small, in another format."""
    clip = open_clip(source)
    frames = clip.read(range(min(len(clip), ENCODED_FRAMES)))
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = ENCODED_SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 12
        stream.codec_context.thread_count = 1
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, "rgb24").reformat(*ENCODED_SIZE, format=stream.pix_fmt)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def make_files(sources: Sources, folder: Path, count: int, seed: int) -> list[Damaged]:
    """Write ``count`` damaged files, as many of each kind; a file depends on (sources, seed, its number) alone."""
    made = []
    kinds = list(KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        rng = random.Random(f"{seed}:{number}")
        source, suffix, write = KINDS[kind](sources, rng)
        name = f"{number:05d}_{kind}{suffix}"
        write(folder / name)
        made.append(Damaged(name, kind, source))
    return made


Recipe = tuple[Path | None, str, Callable[[Path], object]]
"""The clip that it comes from, the new file's suffix, and what writes it."""


Edit = Callable[[bytearray, random.Random, Sources], bytes | bytearray]


def edited(edit: Edit, suffixes: Sequence[str] = SUFFIXES) -> Callable[[Sources, random.Random], Recipe]:
    """A kind of damage that changes the bytes of a video with one of ``suffixes``."""

    def recipe(sources: Sources, rng: random.Random) -> Recipe:
        source = rng.choice([path for path in sources.videos if path.suffix in suffixes])
        data = bytes(edit(bytearray(source.read_bytes()), rng, sources))
        return source, source.suffix, lambda path: path.write_bytes(data)

    return recipe


def truncated(data: bytearray, rng: random.Random, _: Sources) -> bytearray:
    return data[: rng.randrange(1, len(data))]


def tail_lost(data: bytearray, rng: random.Random, _: Sources) -> bytearray:
    return data[: len(data) - rng.randrange(1, max(2, len(data) // 50))]


def head_lost(data: bytearray, rng: random.Random, _: Sources) -> bytearray:
    return data[rng.randrange(1, len(data)) :]


def bits_flipped(data: bytearray, rng: random.Random, _: Sources) -> bytearray:
    for _flip in range(log_uniform(rng, 1, 1000)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def header_bits_flipped(data: bytearray, rng: random.Random, _: Sources) -> bytearray:
    """In the first 2 KB, or in the mp4 header wherever it lies."""
    start = max(data.find(b"moov"), 0)
    for _flip in range(log_uniform(rng, 1, 64)):
        data[start + rng.randrange(min(2048, len(data) - start))] ^= 1 << rng.randrange(8)
    return data


def blocks_zeroed(data: bytearray, rng: random.Random, _: Sources) -> bytearray:
    for start, size in blocks(data, rng):
        data[start : start + size] = bytes(size)
    return data


def blocks_of_noise(data: bytearray, rng: random.Random, _: Sources) -> bytearray:
    for start, size in blocks(data, rng):
        data[start : start + size] = rng.randbytes(size)
    return data


def blocks_moved(data: bytearray, rng: random.Random, _: Sources) -> bytearray:
    """Bytes cut out, or doubled: everything behind lies elsewhere than the index says."""
    for start, size in blocks(data, rng):
        data[start : start + size] = b"" if rng.random() < 0.5 else data[start : start + size] * 2
    return data


def header_swapped(data: bytearray, rng: random.Random, sources: Sources) -> bytes:
    size = rng.choice((64, 512, 2048, 8192))
    return rng.choice(sources.videos).read_bytes()[:size] + data[size:]


def spliced(data: bytearray, rng: random.Random, sources: Sources) -> bytes:
    other = rng.choice(sources.videos).read_bytes()
    return data[: rng.randrange(1, len(data))] + other[rng.randrange(1, len(other)) :]


def huge_frames(data: bytearray, rng: random.Random, _: Sources) -> bytearray:
    """Every header that tells the frames' size tells another."""
    for name, (width, height, form) in SIZE_FIELDS.items():
        for match in re.finditer(name, data):
            start = match.end() + (4 if name in AVI_HEADERS else 0)
            for place in (width, height):
                patch(data, start + place, form, rng)
    for match in re.finditer(rb"\xb0[\x81\x82].{1,2}\xba[\x81\x82]", data, re.DOTALL):  # mkv: PixelWidth, PixelHeight
        width, height = match.start() + 2, match.end()
        patch(data, width, f">{height - width - 2}s", rng)
        patch(data, height, f">{match[0][-1] - 0x80}s", rng)
    return data


def huge_counts(data: bytearray, rng: random.Random, _: Sources) -> bytearray:
    """Numbers of frames, samples and entries, and durations."""
    names = [name for name in COUNT_FIELDS if name in data]
    for name in rng.sample(names, rng.randint(1, len(names))):
        place, form = COUNT_FIELDS[name]
        for match in re.finditer(name, data):
            patch(data, match.end() + (4 if name in AVI_HEADERS else 0) + place, form, rng)
    return data


def huge_chunks(data: bytearray, rng: random.Random, _: Sources) -> bytearray:
    """Sizes of boxes and chunks."""
    names = [name for name in CHUNKS if name in data]
    for name in rng.sample(names, rng.randint(1, min(4, len(names)))):
        place = data.find(name)
        avi = data[:4] == b"RIFF"
        patch(data, place + 4 if avi else max(place - 4, 0), "<I" if avi else ">I", rng)
    return data


def patch(data: bytearray, place: int, form: str, rng: random.Random) -> None:
    size = struct.calcsize(form)
    top = 256**size
    number = rng.choice((top - 1, top // 2 - 1, top // 2, top // 4, top // 16, 0, rng.randrange(top)))
    if place + size <= len(data):
        data[place : place + size] = number.to_bytes(size, "little" if form[0] == "<" else "big")


def blocks(data: bytearray, rng: random.Random) -> list[tuple[int, int]]:
    sizes = [min(rng.choice((512, 4096, 16384)), len(data)) for _ in range(rng.randint(1, 8))]
    return [(rng.randrange(len(data) - size + 1), size) for size in sizes]


def log_uniform(rng: random.Random, low: int, high: int) -> int:
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def wrong_suffix(sources: Sources, rng: random.Random) -> Recipe:
    source = rng.choice(sources.videos)
    suffix = rng.choice([suffix for suffix in SUFFIXES if suffix != source.suffix])
    return source, suffix, lambda path: shutil.copyfile(source, path)


def jpeg_named_video(sources: Sources, rng: random.Random) -> Recipe:
    source = rng.choice(sorted(rng.choice(sources.folders).glob("*.jpg")))
    return source, rng.choice(SUFFIXES), lambda path: shutil.copyfile(source, path)


def text_named_video(_: Sources, rng: random.Random) -> Recipe:
    texts = ("<html><body>404 Not Found</body></html>\n", "#EXTM3U\n#EXTINF:10,\nnowhere.ts\n", "no video here\n" * 200)
    texts += ('{"error": "quota exceeded"}', "ffconcat version 1.0\nfile nowhere.mp4\n", "1\n00:00:01,000 --> \n")
    text = rng.choice(texts)
    return None, rng.choice(SUFFIXES), lambda path: path.write_text(text)


def random_bytes(_: Sources, rng: random.Random) -> Recipe:
    data = rng.randbytes(log_uniform(rng, 1, 100_000))
    return None, rng.choice(SUFFIXES), lambda path: path.write_bytes(data)


def empty(_: Sources, rng: random.Random) -> Recipe:
    return None, rng.choice(SUFFIXES), lambda path: path.touch()


def folder_named_video(_: Sources, rng: random.Random) -> Recipe:
    def write(path: Path) -> None:
        path.mkdir()
        if rng.random() < 0.5:
            (path / "readme.txt").write_text("no images\n")

    return None, rng.choice(SUFFIXES), write


def dangling_link(_: Sources, rng: random.Random) -> Recipe:
    return None, rng.choice(SUFFIXES), lambda path: path.symlink_to("nowhere.mp4")


def damaged_images(sources: Sources, rng: random.Random) -> Recipe:
    """A folder of images of which some are cut off, empty, noise, huge by their header, or of another size."""
    source = rng.choice(sources.folders)

    def write(path: Path) -> None:
        shutil.copytree(source, path, copy_function=shutil.copyfile)
        names = sorted(os.listdir(path))
        for name in rng.sample(names, rng.randint(1, len(names))):
            data = bytearray((path / name).read_bytes())
            frame_header = re.search(rb"\xff[\xc0-\xc2]\x00\x11", data)
            match rng.choice(("cut", "empty", "noise", "huge", "text", "link")):
                case "cut":
                    data = data[: rng.randrange(1, len(data))]
                case "empty":
                    data = bytearray()
                case "noise":
                    data[2:] = rng.randbytes(len(data) - 2)
                case "huge" if frame_header:
                    place = frame_header.end() + 1
                    data[place : place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x3f\xff\x3f\xff", b"\0\0\0\0"))
                case "link":
                    (path / name).unlink()
                    (path / name).symlink_to("nowhere.jpg")
                    continue
                case _:
                    data = bytearray(b"no image\n")
            (path / name).write_bytes(data)

    return source, "", write


KINDS: dict[str, Callable[[Sources, random.Random], Recipe]] = {
    **{
        edit.__name__: edited(edit)
        for edit in (
            truncated,
            tail_lost,
            head_lost,
            bits_flipped,
            header_bits_flipped,
            blocks_zeroed,
            blocks_of_noise,
            blocks_moved,
            header_swapped,
            spliced,
        )
    },
    "huge_frames": edited(huge_frames, (".avi", ".mp4", ".mkv", ".webm")),
    "huge_counts": edited(huge_counts, (".avi", ".mp4")),
    "huge_chunks": edited(huge_chunks, (".avi", ".mp4")),
    **{
        recipe.__name__: recipe
        for recipe in (
            wrong_suffix,
            jpeg_named_video,
            text_named_video,
            random_bytes,
            empty,
            folder_named_video,
            dangling_link,
            damaged_images,
        )
    },
}
