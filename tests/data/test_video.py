"""Frames by number: exact on every kind of file, and one plain cause for every file that cannot be read."""

from __future__ import annotations

import contextlib
import io
import pickle
import wave
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kinet.data.clip import FrameSource, UnreadableClip
from kinet.data.video import open_clip

SIZE = (64, 96)
LENGTH = 40
LEVELS = [20 + 5 * number for number in range(LENGTH)]  # frame i of a written video is grey of LEVELS[i]


def write_video(path: Path, codec: str, *, gop: int = 12, length: int = LENGTH, slope: int = 0, **options: str) -> Path:
    """Grey frames of ``LEVELS``, ``slope`` levels brighter for each pixel to the right and down."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV cannot write {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        stream.bit_rate = 4_000_000
        for number in range(length):
            pixels = (LEVELS[number] + slope * np.indices(SIZE).sum(0)).astype(np.uint8)
            pixels = np.repeat(pixels[..., None], 3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path


def sequential(path: Path) -> list[npt.NDArray[np.uint8]]:
    """The reference: PyAV's plain decode with its own defaults."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def write_images(folder: Path, names: list[str], size: tuple[int, int] = (8, 8)) -> Path:
    """Images that are grey of 10 times their place in ``names``."""
    folder.mkdir()
    for level, name in enumerate(names):
        Image.new("RGB", size, (10 * level,) * 3).save(folder / name)
    return folder


def cause_of(path: Path, *indices: int) -> str:
    with pytest.raises(UnreadableClip) as caught:
        open_clip(path).read(indices)
    assert caught.value.path == path
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return caught.value.cause


# Video files


FILES: dict[str, Callable[[Path], Path]] = {
    "h264.mp4": lambda path: write_video(path, "libx264", bf="3"),
    "h264.mkv": lambda path: write_video(path, "libx264", bf="3"),
    "h264.ts": lambda path: write_video(path, "libx264", bf="3"),
    "hevc.mp4": lambda path: write_video(path, "libx265", **{"x265-params": "bframes=3:log-level=none"}),
    "mpeg4.avi": lambda path: write_video(path, "mpeg4", bf="2"),
    "mpeg2.mpg": lambda path: write_video(path, "mpeg2video", bf="2"),
    "vp9.webm": lambda path: write_video(path, "libvpx-vp9", **{"lag-in-frames": "16", "auto-alt-ref": "1"}),
    "mjpeg.mov": lambda path: write_video(path, "mjpeg", strict="unofficial"),
}


@pytest.mark.parametrize("name", FILES)
def test_frames_come_by_their_number(name: str, tmp_path: Path) -> None:
    source = open_clip(FILES[name](tmp_path / name))
    assert len(source) == LENGTH
    indices = [LENGTH - 1, 0, 17, 17, 3]
    frames = source.read(indices)
    assert frames.shape == (5, *SIZE, 3)
    assert frames.dtype == np.uint8
    means = frames.mean((1, 2, 3))
    assert np.abs(means - [LEVELS[index] for index in indices]).max() < 2.5  # half a frame's step


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> tuple[FrameSource, npt.NDArray[np.uint8]]:
    path = write_video(tmp_path_factory.mktemp("video") / "video.mp4", "libx264", bf="3")
    return open_clip(path), np.stack(sequential(path))


@given(reads=st.lists(st.lists(st.integers(0, LENGTH - 1), min_size=1, max_size=6), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_any_reads_give_what_sequential_decoding_gives(
    video: tuple[FrameSource, npt.NDArray[np.uint8]], reads: list[list[int]]
) -> None:
    source, expected = video
    for indices in reads:
        np.testing.assert_array_equal(source.read(indices), expected[indices])


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_reading_on_opens_the_file_no_more_than_once(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "video.mkv", codec)
    source = open_clip(path)
    opened = []
    monkeypatch.setattr(av, "open", lambda *args, _open=av.open, **kw: opened.append(args) or _open(*args, **kw))
    whole = np.concatenate([source.read(range(start, start + 8)) for start in range(0, LENGTH, 8)])
    assert len(opened) <= 1
    np.testing.assert_array_equal(whole, np.stack(sequential(path)))


@pytest.mark.parametrize(
    "pattern",
    [
        "ucf101_samples/v_K*.avi",
        "ut_interaction/*/set?_seq03*.avi",
        "weizmann/*/i[dr]*_[rw]*.avi",
        "long_gop/k*_3*.mp4",
    ],
)
def test_real_files_have_exactly_the_frames_of_sequential_decoding(shared: Path, pattern: str) -> None:
    """XviD files among them claim more frames than they hold."""
    paths = sorted((shared / "data").glob(pattern))
    assert paths
    for path in paths:
        expected = sequential(path)
        source = open_clip(path)
        assert len(source) == len(expected), path
        indices = [len(expected) - 1, len(expected) // 2, 0]
        np.testing.assert_array_equal(source.read(indices), [expected[index] for index in indices])


def test_frames_that_lean_on_what_was_cut_away_are_not_counted(tmp_path: Path) -> None:
    """Cut at a keyframe without encoding anew: frames shown before it cannot be decoded."""
    whole = write_video(tmp_path / "whole.mkv", "mpeg2video", bf="2")
    cut = tmp_path / "cut.mkv"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        keyframes = 0
        for packet in source.demux(video=0):
            keyframes += packet.is_keyframe
            if keyframes >= 3 and packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    clip = open_clip(cut)
    expected = sequential(cut)
    with av.open(str(cut)) as container:
        packets = sum(packet.size > 0 for packet in container.demux(video=0))
    assert 0 < len(clip) == len(expected) < packets < LENGTH
    np.testing.assert_array_equal(clip.read(range(len(clip))), expected)


def test_a_file_cut_short_has_the_frames_that_are_left(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mkv", "libx264")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    clip = open_clip(path)
    assert 0 < len(clip) < LENGTH
    assert len(clip.read(range(len(clip)))) == len(clip)


def test_a_header_that_claims_too_much_is_not_believed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.avi", "mjpeg", strict="unofficial")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == LENGTH
    clip = open_clip(path)
    assert 0 < len(clip) < LENGTH
    assert len(clip.read(range(len(clip) - 1))) == len(clip) - 1
    assert "decoding failed" in cause_of(path, len(clip) - 1)  # the one the cut went through


def test_frames_before_the_damage_are_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", "libx264", gop=LENGTH)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    start, size = packets[20]
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    clip = open_clip(path)
    assert abs(clip.read([5]).mean() - LEVELS[5]) < 2.5
    with pytest.raises(UnreadableClip, match=r"decoding failed after frame \d+"):
        clip.read([LENGTH - 1])
    assert abs(clip.read([6]).mean() - LEVELS[6]) < 2.5  # and the source goes on after that


def test_a_changed_file_is_counted_anew(tmp_path: Path) -> None:
    """Even one of the same size."""
    path = write_video(tmp_path / "video.ts", "libx264")
    assert len(open_clip(path)) == LENGTH
    size = path.stat().st_size
    write_video(path, "libx264", length=10)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    assert len(open_clip(path)) == 10


def test_the_written_rotation_is_applied(tmp_path: Path) -> None:
    """The track matrix of a phone held upright: players turn the picture clockwise by a quarter."""
    path = write_video(tmp_path / "video.mp4", "mpeg4", slope=1)
    upright = open_clip(path).read([0])[0]
    assert upright[5, 5, 0] < upright[5, 90, 0] - 30
    assert upright[5, 5, 0] < upright[60, 5, 0] - 30
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    # x' = height - y, y' = x, as fixed-point numbers in the order a b u c d v x y w (ISO/IEC 14496-12)
    numbers = [0, 1 << 16, 0, -(1 << 16), 0, 0, SIZE[0] << 16, 0, 1 << 30]
    data[matrix : matrix + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    path.write_bytes(data)
    turned = open_clip(path).read([0])[0]
    height, width = SIZE
    assert turned.shape == (width, height, 3)
    for y, x in ((0, 0), (5, 20), (height - 1, width - 1)):
        np.testing.assert_array_equal(turned[x, height - 1 - y], upright[y, x])


def test_names_that_ffmpeg_would_take_for_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_video(Path("video.mp4"), "mpeg4")
    for name in ("http:%03d.mp4", "concat:a|b.mp4", "-i #1 é.mp4"):
        path = path.rename(name)
        assert len(open_clip(path)) == LENGTH


def test_numbers_outside_the_clip_are_an_error(tmp_path: Path) -> None:
    for source in (
        open_clip(write_video(tmp_path / "video.mp4", "mpeg4")),
        open_clip(write_images(tmp_path / "images", [f"{number}.png" for number in range(LENGTH)])),
    ):
        for index in (-1, LENGTH):
            with pytest.raises(IndexError, match=f"frame {index} of a clip of {LENGTH}"):
                source.read([0, index])
        assert len(source.read([])) == 0


# Folders of images


def test_images_come_in_natural_order(tmp_path: Path) -> None:
    names = ["frame_1.png", "frame_2.jpg", "frame_10.JPEG", "frame_11.bmp"]
    folder = write_images(tmp_path / "clip", names)
    (folder / "labels.txt").write_text("not a frame")
    (folder / ".frame_0.jpg").write_bytes(b"nor this")
    clip = open_clip(folder)
    assert len(clip) == 4
    frames = clip.read(np.array([3, 0, 2, 1, 3]))
    assert frames.shape == (5, 8, 8, 3)
    assert np.abs(frames.mean((1, 2, 3)) - [30, 0, 20, 10, 30]).max() < 1


def test_only_the_images_asked_for_are_read(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "clip", ["0.png", "1.png", "2.png"])
    (folder / "1.png").write_bytes(b"broken")
    assert open_clip(folder).read([2, 0]).shape == (2, 8, 8, 3)
    assert cause_of(folder, 0, 1) == "1.png: not an image"


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("RGB", (200, 100, 50), "a.jpg", (200, 100, 50)),
        ("L", 90, "a.jpg", (90, 90, 90)),
        ("CMYK", (55, 155, 205, 0), "a.jpg", (200, 100, 50)),
        ("RGBA", (200, 100, 50, 10), "a.png", (200, 100, 50)),
        ("LA", (90, 10), "a.png", (90, 90, 90)),
        ("P", 1, "a.png", (200, 100, 50)),
        ("1", 1, "a.png", (255, 255, 255)),
        ("RGB", (200, 100, 50), "a.bmp", (200, 100, 50)),
        ("RGB", (200, 100, 50), "a.webp", (200, 100, 50)),
    ],
)
def test_images_become_rgb(tmp_path: Path, mode: str, colour: int, name: str, expected: tuple[int, ...]) -> None:
    image = Image.new(mode, (16, 8), colour)
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / name, quality=95)
    frames = open_clip(tmp_path).read([0])
    assert frames.shape == (1, 8, 16, 3)
    assert np.abs(frames[0].astype(int) - expected).max() <= 3


def test_lossless_images_and_jpegs_decode_as_written(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    Image.fromarray(pixels).save(tmp_path / "1.webp", lossless=True)
    Image.fromarray(pixels).save(tmp_path / "2.jpg")
    Image.fromarray(pixels).save(tmp_path / "3.png", format="jpeg")  # the content counts, not the name
    frames = open_clip(tmp_path).read([0, 1, 2, 3])
    np.testing.assert_array_equal(frames[0], pixels)
    np.testing.assert_array_equal(frames[1], pixels)
    np.testing.assert_array_equal(frames[2], simplejpeg.decode_jpeg((tmp_path / "2.jpg").read_bytes()))
    np.testing.assert_array_equal(frames[3], frames[2])


# What cannot be read


def jpeg(width: int = 64, height: int = 64) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg")
    return file.getvalue()


def test_causes_of_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.avi").write_text("this is not a video\n" * 100)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\1" * 8000)
    assert cause_of(tmp_path / "nothing.mp4", 0) == "missing"
    assert cause_of(tmp_path / "empty.mp4", 0) == "file is empty"
    assert "not a readable video" in cause_of(tmp_path / "text.avi", 0)
    assert cause_of(tmp_path / "sound.wav", 0) == "no video stream"
    video = write_video(tmp_path / "video.avi", "mpeg4")
    video.write_bytes(video.read_bytes().replace(b"FMP4", b"????"))
    assert cause_of(video, 0) == "no decoder for the video stream"


def test_causes_of_unreadable_folders(tmp_path: Path) -> None:
    clips = {name: tmp_path / name for name in ("empty", "notes", "hollow", "noise", "cut", "deep", "sizes", "folder")}
    for clip in clips.values():
        clip.mkdir()
    (clips["notes"] / "notes.txt").write_text("no image")
    (clips["hollow"] / "0.jpg").touch()
    (clips["noise"] / "0.jpg").write_bytes(b"\xff\xd8" + bytes(range(256)))
    (clips["cut"] / "0.jpg").write_bytes(jpeg()[:1500])
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(clips["deep"] / "0.png")
    (clips["sizes"] / "0.jpg").write_bytes(jpeg(64, 64))
    (clips["sizes"] / "1.jpg").write_bytes(jpeg(48, 64))
    (clips["folder"] / "0.jpg").mkdir()
    assert cause_of(clips["empty"], 0) == "no images in the folder"
    assert cause_of(clips["notes"], 0) == "no images in the folder"
    assert cause_of(clips["hollow"], 0) == "0.jpg: file is empty"
    assert "0.jpg: not a readable image" in cause_of(clips["noise"], 0)
    assert "0.jpg: not a readable image" in cause_of(clips["cut"], 0)
    assert "more than 8 bits" in cause_of(clips["deep"], 0)
    assert cause_of(clips["sizes"], 1, 0) == "frames of different sizes (frame 0 is 64x64, frame 1 is 48x64)"
    assert "0.jpg" in cause_of(clips["folder"], 0)


def test_huge_frames_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    """Only the headers claim the size: decoding would fail with another cause."""
    for name in ("jpeg", "png"):
        (tmp_path / name).mkdir()
    data = bytearray(jpeg())
    frame_header = data.index(b"\xff\xc0")
    data[frame_header + 5 : frame_header + 9] = (16_000).to_bytes(2, "big") + (16_385).to_bytes(2, "big")
    (tmp_path / "jpeg" / "0.jpg").write_bytes(data)
    file = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(file, "png")
    image = bytearray(file.getvalue())
    image[16:24] = (11_000).to_bytes(4, "big") * 2
    checksum = zlib.crc32(image[12:29])
    image[29:33] = checksum.to_bytes(4, "big")
    (tmp_path / "png" / "0.png").write_bytes(image)
    assert cause_of(tmp_path / "jpeg", 0) == "frames of 16385x16000 pixels are too large"
    with pytest.warns(Image.DecompressionBombWarning):
        assert cause_of(tmp_path / "png", 0) == "frames of 11000x11000 pixels are too large"
    with av.open(str(tmp_path / "wide.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16_400, 16, "gray"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16_400), np.uint8), "gray")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert cause_of(tmp_path / "wide.mkv", 0) == "frames of 16400x16 pixels are too large"


def test_the_error_survives_the_way_back_from_a_worker() -> None:
    error = UnreadableClip(Path("a/b.mp4"), "decoding failed\nafter  frame 3")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.path, copy.cause) == (Path("a/b.mp4"), "decoding failed after frame 3")
    assert str(copy) == str(error) == "a/b.mp4: decoding failed after frame 3"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_images_are_unreadable_or_read(
    suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the damage, no other error comes out."""
    folder = tmp_path_factory.mktemp("clip")
    Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).save(folder / f"0{suffix}")
    content = bytearray((folder / f"0{suffix}").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[place] ^= data.draw(st.integers(1, 255))
    (folder / f"0{suffix}").write_bytes(content[: data.draw(st.integers(1, len(content)))])
    with contextlib.suppress(UnreadableClip):
        assert open_clip(folder).read([0]).shape[3] == 3
