"""Every way in which a clip can be wrong has its name, and a good clip has none."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from kinet.data.clip_check import BAD, SUSPECT, Facts, check_clip

SIZE = (64, 96)
LENGTH = 30


def write_video(
    path: Path,
    codec: str = "mpeg4",
    *,
    length: int = LENGTH,
    size: tuple[int, int] = SIZE,
    rate: int = 25,
    options: dict[str, str] | None = None,
) -> Path:
    """Moving noise, so that every packet has bytes that matter."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV cannot write {codec}")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*size, 3), np.uint8)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 10
        stream.bit_rate = 2_000_000
        for number in range(length):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(noise, 2 * number, 1), "rgb24")))
        container.mux(stream.encode())
    return path


def write_images(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    folder.mkdir()
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (number, 0, 0)).save(folder / f"{number}.jpg")
    return folder


def kinds(facts: Facts) -> set[str]:
    return {problem.kind for problem in facts.problems}


def check(path: Path) -> set[str]:
    return kinds(check_clip(path, 3))


def rewrite(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(edit(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("name", "codec"),
    [("clip.avi", "mpeg4"), ("clip.mp4", "libx264"), ("clip.mkv", "libx264"), ("clip.ts", "mpeg2video"),
     ("clip.webm", "libvpx"), ("clip.mov", "libx264"), ("clip.mpg", "mpeg2video"), ("clip.flv", "flv")],
)  # fmt: skip
def test_a_whole_clip_has_no_problem(name: str, codec: str, tmp_path: Path) -> None:
    facts = check_clip(write_video(tmp_path / name, codec), 3)
    assert facts.problems == []
    assert (facts.width, facts.height, facts.frames) == (96, 64, LENGTH)
    assert facts.rate == pytest.approx(25)
    assert facts.seconds == pytest.approx(LENGTH / 25, abs=0.05)


def test_a_folder_of_images_has_no_problem(tmp_path: Path) -> None:
    facts = check_clip(write_images(tmp_path / "clip", [(96, 64)] * 4), 3)
    assert facts == Facts("images", "", 96, 64, 4, content=facts.content)


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    assert check(tmp_path / "no.mp4") == {"missing"}
    assert check(tmp_path / "link.mp4") == {"missing"}
    assert check(tmp_path / "empty.mp4" / "no.mp4") == {"missing"}
    assert check(tmp_path / "empty.mp4") == {"empty"}
    assert check(tmp_path / "folder.mp4") == {"empty"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this system's folders")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert check(tmp_path / "pipe.mp4") == {"unreadable"}


def test_what_is_no_video(tmp_path: Path, sound_only: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video here\n" * 100)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    Image.new("RGB", (96, 64)).save(tmp_path / "image.jpg")
    (tmp_path / "image.jpg").rename(tmp_path / "image.mp4")
    assert check(tmp_path / "text.mp4") == {"unreadable"}
    assert check(tmp_path / "noise.mp4") == {"unreadable"}
    assert "not_video" in check(tmp_path / "image.mp4")
    assert check(sound_only) == {"no_video_stream"}


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.avi", "mpeg4", None),
        ("clip.mp4", "libx264", {"movflags": "faststart"}),
        ("clip.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("clip.mkv", "libx264", None),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95, 0.999])
def test_a_file_cut_short_is_named(
    name: str, codec: str, options: dict[str, str] | None, share: float, tmp_path: Path
) -> None:
    path = write_video(tmp_path / name, codec, options=options)
    found = check(rewrite(path, lambda data: data[: int(share * len(data))]))
    assert found & {"truncated", "unreadable", "undecodable"} or (path.suffix == ".mkv" and "damaged" in found)


def test_an_mp4_without_its_index_is_truncated_and_unreadable(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", "libx264")
    assert check(rewrite(path, lambda data: data[: len(data) // 2])) == {"truncated", "unreadable"}


def test_frames_lost_from_an_avi_that_claims_them_are_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi")

    def claim_more(data: bytes) -> bytes:
        place = data.index(b"strh") + 8 + 32
        return data[:place] + struct.pack("<I", 1000) + data[place + 4 :]

    facts = check_clip(rewrite(path, claim_more), 3)
    assert [problem for problem in facts.problems if problem.kind == "truncated"] == [
        ("truncated", f"the header claims 1000 frames, the file holds {LENGTH}")
    ]


def test_wrong_bytes_that_the_decoder_mends_are_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", "libx264")
    middle = path.stat().st_size // 2
    facts = check_clip(rewrite(path, lambda data: data[:middle] + bytes(1000) + data[middle + 1000 :]), 3)
    assert "damaged" in kinds(facts)
    assert "marked as corrupt" in facts.problems[0].cause


def test_a_header_that_claims_huge_frames_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", "libx264")

    def claim_huge(data: bytes) -> bytes:
        place = data.index(b"avc1", data.index(b"stsd")) + 28
        return data[:place] + struct.pack(">HH", 65535, 65535) + data[place + 4 :]

    facts = check_clip(rewrite(path, claim_huge), 3)
    assert kinds(facts) == {"damaged"}
    assert ("damaged", "the header's avc1 claims 65535x65535, frames are 96x64") in facts.problems


def test_frames_too_large_to_read_are_refused_before_any_is_decoded(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "clip", [(96, 64)])
    data = bytearray((folder / "0.jpg").read_bytes())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = b"\x3f\xff\x3f\xff"
    (folder / "0.jpg").write_bytes(data)
    facts = check_clip(folder, 3)
    assert kinds(facts) == {"undecodable"}
    assert "16383x16383" in facts.problems[0].cause


def test_suspicious_sizes_and_rates_are_named(tmp_path: Path) -> None:
    assert check(write_video(tmp_path / "small.avi", size=(16, 96))) == {"frame_size"}
    assert check(write_video(tmp_path / "slow.avi", rate=1)) == {"frame_rate"}
    assert check(write_video(tmp_path / "fast.avi", rate=240)) == {"frame_rate"}


def test_a_wrong_extension_is_named(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi").rename(tmp_path / "clip.mp4")
    assert check(tmp_path / "clip.mp4") == {"extension"}


def test_bad_images_of_a_folder_are_counted(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "clip", [(96, 64)] * 5)
    rewrite(folder / "1.jpg", lambda data: data[: len(data) // 2])
    rewrite(folder / "3.jpg", lambda data: b"")
    facts = check_clip(folder, 3)
    assert kinds(facts) == {"undecodable"}
    assert facts.problems[0].cause.startswith("2 of 5 images cannot be read; the first: 1.jpg")
    assert facts.frames == 3


def test_images_of_different_sizes_are_bad(tmp_path: Path) -> None:
    facts = check_clip(write_images(tmp_path / "clip", [(96, 64), (96, 64), (64, 64)]), 3)
    assert facts.problems == [("undecodable", "frames of 2 sizes: 2 of 96x64, 1 of 64x64")]


def test_a_copy_in_another_file_has_the_same_content(tmp_path: Path) -> None:
    first = write_video(tmp_path / "first.mp4", "libx264")
    with av.open(str(first)) as whole, av.open(str(tmp_path / "copy.mov"), "w") as copy:
        stream = copy.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    assert first.read_bytes() != (tmp_path / "copy.mov").read_bytes()
    contents = [check_clip(tmp_path / name, 3).content for name in ("first.mp4", "copy.mov")]
    assert contents[0] == contents[1] != ""
    assert check_clip(write_video(tmp_path / "other.mp4", "libx264", length=29), 3).content != contents[0]


def test_real_clips_have_no_problem(shared: Path) -> None:
    videos = sorted((shared / "data").rglob("*.avi"))[::60] + sorted((shared / "data/long_gop").glob("*.mp4"))
    for path in videos:
        assert check_clip(path, 3).problems == [], path


def test_no_kind_is_both_bad_and_suspect() -> None:
    assert not set(BAD) & set(SUSPECT)
