"""What a container claims is read from whole files, and from any damaged one without failing."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet.data.container import Claims, FrameSize, read_claims


def write_video(path: Path, options: dict[str, str] | None = None) -> Path:
    """5 frames of 64 x 48, mpeg4, and in an mp4 file also sound."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 64, 48
        sound = container.add_stream("aac", rate=8000, layout="mono") if path.suffix == ".mp4" else None
        for level in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), "rgb24")))
        container.mux(stream.encode())
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux([*sound.encode(frame), *sound.encode()])
    return path


@pytest.fixture(scope="module")
def avi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("avi") / "clip.avi")


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("mp4") / "clip.mp4")


def claims_of(data: bytes, path: Path) -> Claims:
    path.write_bytes(data)
    return read_claims(path)


def test_a_whole_file_ends_where_it_claims_and_tells_its_frames_size(avi: Path, mp4: Path) -> None:
    assert read_claims(avi) == Claims(avi.stat().st_size, [FrameSize("avih", 64, 48), FrameSize("strf", 64, 48)])
    assert read_claims(mp4) == Claims(mp4.stat().st_size, [FrameSize("mp4v", 64, 48)])


def test_fragments_are_parts_of_the_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", {"movflags": "frag_keyframe+empty_moov"})
    assert read_claims(path) == Claims(path.stat().st_size, [FrameSize("mp4v", 64, 48)])


def test_a_file_cut_short_still_claims_its_end(avi: Path, tmp_path: Path) -> None:
    data = avi.read_bytes()
    assert claims_of(data[:-100], tmp_path / "cut.avi").end == len(data)


def test_a_box_cut_short_still_claims_its_end(mp4: Path, tmp_path: Path) -> None:
    data = mp4.read_bytes()
    middle = data.index(b"mdat") + 40
    ends = [index - 4 for index in (match.start() for match in re.finditer(b"moov", data))]
    assert claims_of(data[:middle], tmp_path / "cut.mp4") == Claims(ends[0], [])


def test_bytes_behind_the_end_are_no_claim(avi: Path, mp4: Path, tmp_path: Path) -> None:
    for path in (avi, mp4):
        data = path.read_bytes()
        assert claims_of(data + b"\xff" * 64, tmp_path / f"tail{path.suffix}") == read_claims(path)


def test_changed_sizes_are_told(avi: Path, mp4: Path, tmp_path: Path) -> None:
    data = bytearray(avi.read_bytes())
    place = data.index(b"strf") + 12
    data[place : place + 8] = struct.pack("<ii", 100_000, -50_000)  # a negative height: rows from the top
    assert FrameSize("strf", 100_000, 50_000) in claims_of(data, tmp_path / "huge.avi").sizes
    data = bytearray(mp4.read_bytes())
    place = data.index(b"mp4v") + 28
    data[place : place + 4] = struct.pack(">HH", 65535, 4)
    assert claims_of(data, tmp_path / "huge.mp4").sizes == [FrameSize("mp4v", 65535, 4)]


@pytest.mark.parametrize("data", [b"", b"RIFF", b"\0" * 100, b"GIF89a", b"\0\0\0\x08moov", b"\0\0\0\0moov"])
def test_other_files_claim_nothing(data: bytes, tmp_path: Path) -> None:
    claims = claims_of(data, tmp_path / "file")
    assert claims.sizes == []
    assert claims.end in (None, len(data))


@given(data=st.data())
def test_damage_never_fails(
    data: st.DataObject, avi: Path, mp4: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(data.draw(st.sampled_from([avi, mp4])).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + 4] = data.draw(st.binary(min_size=1, max_size=8))
    del content[data.draw(st.integers(1, len(content))) :]
    claims_of(bytes(content), tmp_path_factory.getbasetemp() / "damaged")


def test_boxes_in_boxes_without_end_are_not_followed(tmp_path: Path) -> None:
    depth = 5000
    boxes = b"".join(struct.pack(">I4s", 8 * (depth - level), b"moov") for level in range(depth))
    assert claims_of(boxes, tmp_path / "deep.mp4") == Claims(len(boxes), [])
