"""Random access to every kind of video gives, bit for bit, what a plain sequential decode gives."""

from __future__ import annotations

import gc
import re
import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet.data.clip import UnreadableClip
from kinet.data.video import VideoFile, open_clip

Frames = list[npt.NDArray[np.uint8]]
LENGTH = 50


@dataclass(frozen=True)
class Kind:
    """A file to write. ``selective``: the pictures' headers tell its frames, so that few are decoded."""

    suffix: str
    codec: str
    selective: bool = False
    options: dict[str, str] = field(default_factory=dict)
    gop: int = 12
    format: str = "yuv420p"
    size: tuple[int, int] = (64, 96)  # height, width
    times: Callable[[int], int] = lambda number: number  # of frames, in 1/25 s


def x264(suffix: str = "mp4", selective: bool = True, gop: int = 12, params: str = "", **other: Any) -> Kind:
    return Kind(suffix, "libx264", selective, {"preset": "fast", "x264-params": params}, gop, **other)


KINDS = {
    "h264": x264(params="bframes=3"),
    "h264 one period": x264(gop=250, params="bframes=3:b-adapt=0:scenecut=0"),
    "h264 only keyframes": x264(gop=1),
    "h264 short periods": x264("mkv", gop=3, params="bframes=2:b-adapt=0"),
    "h264 pyramid": x264(gop=25, params="bframes=8:b-adapt=0:b-pyramid=strict"),
    "h264 no pyramid": x264("mkv", gop=20, params="bframes=5:b-adapt=0:b-pyramid=none"),
    "h264 no B-pictures": x264(params="bframes=0:ref=4"),
    "h264 slices": x264(params="bframes=3:slices=4:weightp=2"),
    "h264 open periods": x264("mkv", gop=8, params="bframes=3:b-adapt=0:open-gop=1"),
    "h264 intra refresh": x264(gop=16, params="bframes=2:intra-refresh=1"),
    "h264 transport stream": x264("ts", params="bframes=3"),
    "h264 bare": x264("h264", params="bframes=3"),
    "h264 avi": x264("avi", params="bframes=3:b-adapt=0"),
    "h264 interlaced": x264(params="bframes=3:tff=1"),
    "h264 10 bit": x264(format="yuv420p10le"),
    "h264 grey": x264(format="gray"),
    "h264 4:2:2": x264(format="yuv422p"),
    "h264 4:4:4": x264(selective=False, format="yuv444p", size=(63, 95)),
    "h264 odd size": x264(size=(62, 90)),
    "h264 variable rate": x264("mkv", params="bframes=3", times=lambda number: number**2),
    "h264 begins before zero": x264("mkv", params="bframes=3", times=lambda number: number - 20),
    "h264 begins late": x264(params="bframes=3", times=lambda number: number + 100),
    "h264 grain tune": x264(gop=30, params="bframes=3:cqm=jvt:aq-mode=2:8x8dct=1"),
    "mpeg4": Kind("mp4", "mpeg4", True, {"bf": "0"}),
    "mpeg4 B-pictures": Kind("mp4", "mpeg4", True, {"bf": "2", "b_strategy": "0"}),
    "mpeg4 avi": Kind("avi", "mpeg4", True, {"bf": "2", "b_strategy": "0"}),
    "mpeg4 avi without B-pictures": Kind("avi", "mpeg4", True, gop=100),
    "mpeg4 open periods": Kind("mkv", "mpeg4", True, {"bf": "3", "b_strategy": "0", "flags": "+qpel+mv4"}, gop=7),
    "mpeg4 closed periods": Kind(
        "avi", "mpeg4", True, {"bf": "2", "b_strategy": "0", "flags": "+cgop", "sc_threshold": "1000000000"}, gop=9
    ),
    "mpeg4 interlaced": Kind("avi", "mpeg4", False, {"bf": "2", "flags": "+ildct+ilme"}),
    "mpeg4 matrices": Kind("avi", "mpeg4", True, {"bf": "1", "mpeg_quant": "1", "data_partitioning": "1"}),
    "hevc": Kind("mp4", "libx265", False, {"preset": "fast", "x265-params": "log-level=none:open-gop=1"}),
    "hevc 10 bit": Kind("mkv", "libx265", False, {"x265-params": "log-level=none"}, format="yuv420p10le"),
    "mpeg2": Kind("mpg", "mpeg2video", False, {"bf": "2"}),
    "mpeg2 interlaced": Kind("mpg", "mpeg2video", False, {"bf": "2", "flags": "+ildct+ilme"}),
    "vp8": Kind("webm", "libvpx", False, {"cpu-used": "8"}),
    "vp8 alpha": Kind("webm", "libvpx", False, {"cpu-used": "8", "auto-alt-ref": "0"}, format="yuva420p"),
    "vp9": Kind("webm", "libvpx-vp9", False, {"cpu-used": "8", "lag-in-frames": "16", "auto-alt-ref": "1"}),
    "av1": Kind("mkv", "libsvtav1", False, {"preset": "12"}),
    "mjpeg": Kind("avi", "mjpeg", False, format="yuvj422p"),
    "gif": Kind("gif", "gif", False, format="rgb8"),
    "png alpha": Kind("mov", "png", False, format="rgba", size=(63, 95)),
    "lossless": Kind("mkv", "ffv1", False, format="yuv420p10le", size=(63, 95)),
}


def texture(number: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A picture full of detail that moves, with noise on it, so that any mistake shows."""
    y, x = np.indices(size)
    waves = np.sin((x + 3 * number) / 5) + np.cos((y - 2 * number) / 7) + np.sin((x + y) * number / 90)
    noise = np.random.default_rng(number).normal(0, 8, (*size, 3))
    return np.clip(128 + 35 * waves[..., None] * (1, 0.6, -0.8) + noise, 0, 255).astype(np.uint8)


def write(path: Path, kind: Kind, length: int = LENGTH) -> Path:
    if kind.codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV cannot write {kind.codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.codec, rate=25, options=kind.options)
        stream.height, stream.width = kind.size
        stream.pix_fmt = kind.format
        stream.codec_context.gop_size = kind.gop
        stream.codec_context.thread_count = 1
        stream.time_base = stream.codec_context.time_base = Fraction(1, 25)
        for number in range(length):
            frame = av.VideoFrame.from_ndarray(texture(number, kind.size), "rgb24").reformat(format=kind.format)
            frame.pts = kind.times(number)
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sequential(path: Path, mended: list[int] | None = None) -> Frames:
    """The frames of a plain decode, up to its error if there is one; ``mended`` gets the numbers of damaged ones."""
    frames: Frames = []
    with suppress(av.FFmpegError), av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            for frame in packet.decode():
                if frame.is_corrupt and mended is not None:
                    mended.append(len(frames))
                frames.append(frame.to_ndarray(format="rgb24"))
            if packet.size == 0:
                break
    return frames


def check(source: VideoFile, expected: Frames, *reads: list[int]) -> None:
    for indices in reads:
        np.testing.assert_array_equal(source.read(indices), [expected[index] for index in indices])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Frames]]:
    folder = tmp_path_factory.mktemp("kinds")

    @lru_cache
    def of(name: str) -> tuple[Path, Frames]:
        path = write(folder / f"{name.replace(':', '')}.{KINDS[name].suffix}", KINDS[name])
        return path, sequential(path)

    return of


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file(name: str, written: Callable[[str], tuple[Path, Frames]]) -> None:
    path, expected = written(name)
    source = VideoFile(path)
    length = len(expected)
    assert len(source) == length
    assert LENGTH - 5 <= length <= LENGTH
    rng = np.random.default_rng(0)
    for size in (1, 1, 3, 3, 25):
        indices = rng.integers(0, length, size).tolist()
        check(source, expected, indices, sorted(indices))
        check(VideoFile(path), expected, indices)
    check(source, expected, *([number] for number in rng.permutation(length).tolist()))
    check(source, expected, *(list(range(start, min(start + 7, length))) for start in range(0, length, 7)))
    check(source, expected, rng.permutation(length).tolist())
    assert (source._selective is not None) == KINDS[name].selective


ACCESSES = st.lists(st.lists(st.integers(0, LENGTH - 6), min_size=1, max_size=8), min_size=1, max_size=5)


@pytest.mark.parametrize("name", ["h264", "h264 pyramid", "h264 open periods", "mpeg4 open periods", "mpeg4 avi"])
@given(reads=ACCESSES)
@settings(max_examples=25, deadline=None)
def test_any_reads_in_any_order(
    written: Callable[[str], tuple[Path, Frames]], name: str, reads: list[list[int]]
) -> None:
    path, expected = written(name)
    check(VideoFile(path), expected, *reads)


# Packed XviD


def pack_pictures(path: Path, packed: Path) -> None:
    """Put each reference picture and the first B-picture after it in one packet, as DivX and XviD do.

    A packet that says 'not coded' stands after the last B-picture of each group. DivX's mark takes the place of
    the encoder's name, which is as long.
    """
    with av.open(str(path)) as source, av.open(str(packed), "w") as target:
        template = source.streams.video[0]
        packets = [bytes(packet) for packet in source.demux(template) if packet.size]
        packets = [
            re.sub(rb"(?<=\x00\x00\x01\xb2)Lavc[\d.]{9}(?=\x00\x00\x01)", b"DivX503b1393p", data) for data in packets
        ]
        assert b"DivX" in packets[0]
        kinds = [data[data.index(b"\0\0\1\xb6") + 4] >> 6 for data in packets]
        not_coded = b"\0\0\1\xb6" + bytes([0b01_0_1_0000, 0b0_1_0_01111, 0x7F])
        joined: list[bytes] = []
        for data, kind, before in zip(packets, kinds, [0, *kinds], strict=False):
            if kind == 2 and before != 2:
                joined[-1] += data
            elif before == 2 and kind != 2:
                joined += [not_coded, data]
            else:
                joined.append(data)
        stream = target.add_stream("mpeg4", rate=25)
        stream.height, stream.width = template.height, template.width
        stream.pix_fmt = "yuv420p"
        for number, data in enumerate(joined):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base = Fraction(1, 25)
            packet.stream = stream
            target.mux(packet)


@pytest.mark.parametrize("between", [1, 2, 3])
def test_packed_pictures(between: int, tmp_path: Path) -> None:
    options = {"bf": str(between), "b_strategy": "0"}
    plain = write(tmp_path / "plain.avi", Kind("avi", "mpeg4", options=options, gop=17))
    pack_pictures(plain, tmp_path / "packed.avi")
    expected = sequential(tmp_path / "packed.avi")
    assert LENGTH - 4 <= len(expected) <= LENGTH
    source = VideoFile(tmp_path / "packed.avi")
    assert len(source) == len(expected)
    rng = np.random.default_rng(0)
    for size in (1, 3, 3, 25):
        check(source, expected, rng.permutation(len(expected))[:size].tolist())
    check(source, expected, list(range(len(expected))))
    assert source._selective is not None


# Files that were cut or damaged


def check_readable_part(path: Path) -> None:
    """What a sequential decode gives is given, in any order, and all frames at once only if it does not fail.

    What stands in a frame that the decoder had to mend may be left to chance by the decoder.
    """
    mended: list[int] = []
    expected = sequential(path, mended)
    try:
        source = open_clip(path)
    except UnreadableClip:
        assert not expected
        return
    assert len(source) >= len(expected)
    rng = np.random.default_rng(0)
    for number in [*rng.permutation(len(expected))[:12].tolist(), *range(max(0, len(expected) - 3), len(expected))]:
        frame = source.read([number])[0]
        assert number in mended or np.array_equal(frame, expected[number]), number
    if len(expected) < len(source):
        with pytest.raises(UnreadableClip):
            open_clip(path).read(range(len(source)))


@pytest.mark.parametrize(
    "name", ["h264 short periods", "h264 transport stream", "h264 bare", "mpeg4 avi", "mpeg4 open periods", "mjpeg"]
)
@given(part=st.floats(0.2, 0.99))
@settings(max_examples=6, deadline=None)
def test_the_readable_part_of_a_file_cut_short(
    written: Callable[[str], tuple[Path, Frames]], name: str, part: float
) -> None:
    path, _ = written(name)
    data = path.read_bytes()
    cut = path.with_name(f"cut{path.suffix}")
    cut.write_bytes(data[: int(len(data) * part)])
    check_readable_part(cut)


@pytest.mark.parametrize("name", ["h264", "h264 transport stream", "mpeg4 avi", "mpeg4 avi without B-pictures"])
@given(seed=st.integers(0, 2**32), size=st.sampled_from([1, 8, 300]))
@settings(max_examples=12, deadline=None)
def test_the_readable_part_of_a_damaged_file(
    written: Callable[[str], tuple[Path, Frames]], name: str, seed: int, size: int
) -> None:
    path, _ = written(name)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    with av.open(str(path)) as container:
        packets = [packet.pos for packet in container.demux(video=0) if packet.size]
    start = int(rng.integers(packets[1], packets[-1]))
    data[start : start + size] = rng.bytes(size)
    damaged = path.with_name(f"damaged{path.suffix}")
    damaged.write_bytes(data)
    check_readable_part(damaged)


@pytest.mark.parametrize("name", ["h264 short periods", "h264 open periods", "mpeg4 open periods", "mpeg4 avi", "hevc"])
def test_streams_that_begin_in_the_middle(
    name: str, written: Callable[[str], tuple[Path, Frames]], tmp_path: Path
) -> None:
    """Cut at the second keyframe, the pictures before it in order of showing lean on what is gone."""
    path, _ = written(name)
    cut = tmp_path / "cut.mkv"
    with av.open(str(path)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        keyframes = 0
        for number, packet in enumerate(source.demux(video=0)):
            keyframes += packet.is_keyframe
            if keyframes >= 2 and packet.size:
                packet.stream = stream
                if path.suffix == ".avi":
                    packet.pts = packet.dts = number
                target.mux(packet)
    expected = sequential(cut)
    source_of_frames = VideoFile(cut)
    assert len(source_of_frames) == len(expected)
    check(source_of_frames, expected, [len(expected) - 1, 0], list(range(len(expected))), [3, 9, 4])


def test_an_edit_list_hides_frames(tmp_path: Path) -> None:
    """The first six frames, hidden by a media time of 6/25 s, are decoded and not shown."""
    path = write(tmp_path / "video.mp4", x264(gop=12, params="bframes=2"))
    data = bytearray(path.read_bytes())
    shown = len(sequential(path))
    entry = data.index(b"elst") + 12  # one entry: duration, media time, rate
    with av.open(str(path)) as container:
        ticks = round(6 / 25 / container.streams.video[0].time_base)
    time = int.from_bytes(data[entry + 4 : entry + 8], "big")
    data[entry + 4 : entry + 8] = (time + ticks).to_bytes(4, "big")
    path.write_bytes(data)
    expected = sequential(path)
    assert len(expected) == shown - 6
    source = VideoFile(path)
    assert len(source) == len(expected)
    check(source, expected, [20, 0, 43], [7], list(range(len(expected))))
    assert source._selective is not None


def test_pictures_of_two_sizes(tmp_path: Path) -> None:
    small = write(tmp_path / "small.h264", x264("h264"), length=12)
    large = write(tmp_path / "large.h264", x264("h264", size=(80, 112)), length=12)
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    source = open_clip(both)
    assert len(source) == 24
    assert source.read([1, 5]).shape == (2, 64, 96, 3)
    assert source.read([20]).shape == (1, 80, 112, 3)
    with pytest.raises(UnreadableClip, match="frames of different sizes"):
        source.read([5, 20])


# What it costs


@pytest.mark.parametrize("name", ["h264 one period", "mpeg4 avi"])
def test_only_what_frames_need_is_decoded(
    name: str, written: Callable[[str], tuple[Path, Frames]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = written(name)
    source = VideoFile(path)
    assert source._selective is not None
    needed = sum(picture.reference for picture in source._selective._pictures)
    fed: list[object] = []
    context = source._selective._context
    monkeypatch.setattr(source._selective, "_context", Counted(context, fed))
    check(source, expected, [10])
    assert len(fed) <= 12
    fed.clear()
    check(source, expected, [0, 48, 20])
    assert len(fed) <= needed + 4 < 35
    fed.clear()
    check(source, expected, *(list(range(start, start + 10)) for start in range(0, 50, 10)))
    assert len(fed) <= LENGTH + 1  # each once, and the end


class Counted:
    """A decoder that notes what it is fed."""

    def __init__(self, context: av.VideoCodecContext, fed: list[object]) -> None:
        self.context = context
        self.fed = fed

    def decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        self.fed.append(packet)
        return self.context.decode(packet)

    def flush_buffers(self) -> None:
        self.context.flush_buffers()


@pytest.mark.parametrize("name", ["h264", "mpeg4 avi", "vp9"])
def test_memory_stays_flat(name: str, written: Callable[[str], tuple[Path, Frames]]) -> None:
    """A clip's packets alone are 50 kB or more, its decoder several hundred."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        pytest.skip("the system does not tell the memory of a process")

    def resident() -> int:
        gc.collect()
        return int(statistics.read_text().split()[1]) * resource.getpagesize()

    path, _ = written(name)
    for _ in range(40):
        open_clip(path).read([30, 3])
    before = resident()
    for _ in range(200):
        open_clip(path).read([30, 3])
    assert resident() - before < 8 * 2**20
