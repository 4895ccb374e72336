"""Packs: every frame at its place, whole shards or none, damage named, nothing read that is not asked for."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from kinet.config import DataConfig
from kinet.data.clip import UnreadableClip
from kinet.data.dataset import ViewDataset, collate_views
from kinet.data.manifest import Clip, Manifest, read_manifest, write_manifest
from kinet.data.pack import Pack, Packs, open_packs
from kinet.data.pack_codec import Format, PackSettings, encode_clip
from kinet.data.pack_verify import read_places, verify_pack
from kinet.data.pack_writer import LOCK, ShardWriter, locked, pack_clips
from kinet.data.video import open_clip
from kinet.errors import InputError
from kinet.evaluation.protocol import Views

SETTINGS = {"jpeg": PackSettings(short_side=32), "h264": PackSettings("h264", 18, short_side=32)}
SHARD_BYTES = 30_000


def paint(folder: Path, frames: int, size: tuple[int, int], seed: int) -> None:
    """Images of large tiles in random colours."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(frames):
        tiles = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
        tiles.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")


def record(path: Path, frames: int) -> None:
    """A video of 10 frames a second, each brighter than the one before."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            grey = np.full((48, 64, 3), 20 + 6 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        container.mux(stream.encode())


@dataclass(frozen=True)
class Packed:
    """A folder of clips, its manifest, and a pack of it."""

    root: Path
    clips: Manifest
    folder: Path
    format: Format


def make_clips(root: Path) -> Manifest:
    """Folders of images, a video and a file that is none."""
    paint(root / "a/1", 5, (40, 33), 1)
    paint(root / "a/zwei, 2", 9, (64, 48), 2)
    record(root / "a/3.avi", 24)
    (root / "b").mkdir()
    (root / "b/broken.mp4").write_bytes(b"no video")
    paint(root / "b/köln", 12, (31, 20), 4)
    paint(root / "b/5", 7, (50, 50), 5)
    names = ["a/1", "a/zwei, 2", "a/3.avi", "b/broken.mp4", "b/köln", "b/5"]
    write_manifest(root / "clips.csv", [(name, name[0]) for name in names])
    return read_manifest(root / "clips.csv")


@pytest.fixture(scope="module", params=["jpeg", "h264"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Tests leave it as it is."""
    root = tmp_path_factory.mktemp("clips")
    clips, folder = make_clips(root), root / "pack"
    report = pack_clips(clips, folder, SETTINGS[request.param], shard_bytes=SHARD_BYTES, workers=2)
    assert (report.clips, report.packed, report.skipped) == (5, 5, 1)
    assert report.frames == 5 + 9 + 24 + 12 + 7
    return Packed(root, clips, folder, request.param)


@pytest.fixture
def copy(packed: Packed, tmp_path: Path) -> Packed:
    """A copy of the pack, to be changed."""
    return replace(packed, folder=Path(shutil.copytree(packed.folder, tmp_path / "pack")))


def again(pack: Packed, clips: Manifest | None = None, **changes: Any) -> Any:
    """Run the packing that made the pack once more."""
    settings = replace(SETTINGS[pack.format], **changes)
    return pack_clips(clips or pack.clips, pack.folder, settings, shard_bytes=SHARD_BYTES, workers=1)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def readable(clips: Manifest) -> Iterator[Clip]:
    return (clip for clip in clips if clip.name != "b/broken.mp4")


def test_every_frame_comes_back(packed: Packed) -> None:
    pack = Pack(packed.folder)
    for clip in readable(packed.clips):
        original = open_clip(clip.path)
        source = pack.open(clip.name)
        assert len(source) == len(original)
        frames = source.read(range(len(source)))
        assert min(frames.shape[1:3]) == min(32, *original.read([0]).shape[1:3])
        expected = np.stack(
            [
                np.asarray(Image.fromarray(frame).resize(frames.shape[2:0:-1], Image.Resampling.BICUBIC))
                for frame in original.read(range(len(original)))
            ]
        )
        assert np.abs(frames.astype(int) - expected).mean() < 8  # tiny tiles of random colours
        indices = [len(source) - 1, 0, 0, 3]
        np.testing.assert_array_equal(source.read(indices), frames[indices])
        assert source.read([]).shape[0] == 0
        for outside in (-1, len(source)):
            with pytest.raises(IndexError):
                source.read([outside])


def test_three_frames_are_three_reads(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, offset: reads.append(size) or pread(file, size, offset))
    Pack(packed.folder).open("a/3.avi").read([2, 9, 20])
    assert len(reads) == 3


def test_unreadable_clips_are_remembered(packed: Packed) -> None:
    with (packed.folder / "skipped.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == "b/broken.mp4"
    assert "not a readable video" in row["cause"]
    with pytest.raises(UnreadableClip, match="when it was packed: not a readable video"):
        Pack(packed.folder).open("b/broken.mp4")


def test_unknown_clips_are_refused(packed: Packed, capsys: pytest.CaptureFixture[str]) -> None:
    packs = open_packs(str(packed.folder), [packed.clips])
    assert packs is not None
    assert "1 of the 6 clips" in capsys.readouterr().err
    assert open_packs(None, [packed.clips]) is None
    write_manifest(packed.root / "more.csv", [("a/1", "a"), ("a/new", "a"), ("b/new", "b")])
    more = read_manifest(packed.root / "more.csv")
    with pytest.raises(InputError, match=r"2 of the 3 clips of .*more.csv are not packed, the first is a/new; run"):
        open_packs([str(packed.folder)], [packed.clips, more])
    with pytest.raises(InputError, match="a/new is not packed"):
        packs.open(more[1])


def test_packing_again_packs_nothing(copy: Packed) -> None:
    before = shards(copy.folder)
    report = again(copy)
    assert (report.clips, report.packed, report.skipped) == (5, 0, 1)
    assert shards(copy.folder) == before


def test_an_interrupted_run_goes_on_and_gives_the_same(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = replace(packed, folder=tmp_path / "part")
    add, added = ShardWriter.add, []

    def interrupt(self: ShardWriter, clip: Clip, *rest: Any) -> None:
        if len(added) == 3:
            raise KeyboardInterrupt
        add(self, clip, *rest)
        added.append(clip.name)

    monkeypatch.setattr(ShardWriter, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        again(part)
    monkeypatch.undo()
    assert {path.name for path in part.folder.iterdir()} <= {"index.sqlite", "lock", "shards"}
    done = shards(part.folder)
    assert all(name.endswith(".tar") for name in done)
    verify_pack(part.folder)
    assert again(part).clips == 5
    assert shards(part.folder) == shards(packed.folder)  # which two processes made
    assert packed.format == "h264" or done


def test_more_clips_can_be_added(copy: Packed) -> None:
    before = shards(copy.folder)
    paint(copy.root / "c/new", 4, (40, 40), 7)
    write_manifest(copy.root / "added.csv", [("a/1", "a"), ("c/new", "c"), ("c/new", "c")])
    added = read_manifest(copy.root / "added.csv")
    assert again(copy, added).packed == 2  # listed twice, kept once
    shutil.rmtree(copy.root / "c")
    assert shards(copy.folder).items() > before.items()
    packs = Packs([copy.folder])
    assert len(packs.open(added[1])) == 4
    assert packs.check(packed_and_added := added) == []
    assert packs.key(packed_and_added[0]) != packs.key(packed_and_added[1])
    verify_pack(copy.folder)


def test_clips_are_found_in_any_of_several_packs(packed: Packed, tmp_path: Path) -> None:
    paint(tmp_path / "d", 4, (40, 40), 8)
    write_manifest(tmp_path / "other.csv", [("d", "d")])
    other = read_manifest(tmp_path / "other.csv")
    pack_clips(other, tmp_path / "pack", SETTINGS["jpeg"], shard_bytes=SHARD_BYTES, workers=1)
    packs = open_packs([str(packed.folder), str(tmp_path / "pack")], [packed.clips, other])
    assert packs is not None
    assert len(packs.open(other[0])) == 4
    assert len(packs.open(packed.clips[0])) == 5


def test_what_does_not_fit_the_pack_is_refused(copy: Packed, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was packed with --short-side 32, not 48; choose a new folder"):
        again(copy, short_side=48)
    with locked(copy.folder), pytest.raises(InputError, match="another process packs into this folder"):
        again(copy)
    assert (copy.folder / LOCK).exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds other files \(thesis.tex\)"):
        again(replace(copy, folder=tmp_path / "mine"))
    with pytest.raises(InputError, match="not a pack"):
        Pack(tmp_path / "mine")


def test_a_changed_original_is_told_from_the_packed_one(copy: Packed, tmp_path: Path) -> None:
    root = Path(shutil.copytree(copy.root, tmp_path / "clips"))
    record(root / "a/3.avi", 30)
    with pytest.raises(InputError, match=r"3.avi: has \d+ bytes, but the pack's clip of this name was made from"):
        again(copy, read_manifest(root / "clips.csv"))
    (root / "a/3.avi").unlink()  # the pack alone may be kept
    again(copy, read_manifest(root / "clips.csv"))


def test_fewer_frames_a_second(copy: Packed, tmp_path: Path) -> None:
    write_manifest(copy.root / "one.csv", [("a/3.avi", "a"), ("a/1", "a")])
    one = read_manifest(copy.root / "one.csv")
    half = replace(copy, folder=tmp_path / "half")
    assert again(half, one, fps=5.0).skipped == 1  # the folder of images, which has no rate
    few, all_of_it = Pack(half.folder).open("a/3.avi"), Pack(copy.folder).open("a/3.avi")
    assert len(few) == 12
    brightness = few.read(range(12)).mean((1, 2, 3)) - all_of_it.read(range(0, 24, 2)).mean((1, 2, 3))
    assert np.abs(brightness).max() < 2  # steps are 12
    with tarfile.open(half.folder / "shards/000000.tar") as tar:
        facts = json.load(tar.extractfile("00000000.json"))  # type: ignore[arg-type]
    assert (facts["name"], facts["label"], facts["frames"], facts["fps"]) == ("a/3.avi", "a", 12, 5.0)


def test_no_readable_clip_is_an_error(tmp_path: Path) -> None:
    write_manifest(tmp_path / "clips.csv", [("gone.mp4", "a")])
    with pytest.raises(InputError, match=r"no clip could be read; .*skipped.csv says why"):
        pack_clips(read_manifest(tmp_path / "clips.csv"), tmp_path / "pack", SETTINGS["jpeg"], shard_bytes=1, workers=1)


# Damage


def first_shard(pack: Packed) -> Path:
    return pack.folder / "shards/000000.tar"


def test_missing_and_cut_shards_are_seen_on_opening(copy: Packed) -> None:
    shard = first_shard(copy)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10240])
    for use in (Pack, verify_pack, lambda folder: again(copy)):
        with pytest.raises(InputError, match=r"000000.tar: has \d+ bytes, not \d+; remove it and run kinet pack again"):
            use(copy.folder)
    shard.unlink()
    with pytest.raises(InputError, match=r"000000.tar: missing; run kinet pack again"):
        Pack(copy.folder)
    assert again(copy).packed > 0
    assert verify_pack(copy.folder) > 0
    for clip in readable(copy.clips):
        assert len(Pack(copy.folder).open(clip.name).read([0])) == 1


def test_a_flipped_bit_is_found_by_verifying(copy: Packed) -> None:
    shard = first_shard(copy)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    with pytest.raises(InputError, match=r"000000.tar: its checksum differs"):
        verify_pack(copy.folder)


def test_frames_that_do_not_decode_make_the_clip_unreadable(copy: Packed) -> None:
    shard = first_shard(copy)
    shard.write_bytes(b"\0" * shard.stat().st_size)
    with pytest.raises(UnreadableClip, match=r"000000.tar: a/1: "):
        Pack(copy.folder).open("a/1").read([0])


def test_damaged_indices_are_refused(copy: Packed) -> None:
    database = sqlite3.connect(copy.folder / "index.sqlite")
    with database:
        database.execute("UPDATE clips SET places = substr(places, 2) WHERE name = 'a/1'")
        database.execute("UPDATE clips SET height = 1000000, width = 1000000 WHERE name = 'b/5'")
        offset = np.array([(2**62, 2**31)] * 9, [("offset", "<u8"), ("size", "<u4")]).tobytes()
        database.execute("UPDATE clips SET places = ? WHERE name = 'a/zwei, 2'", (offset,))
    pack = Pack(copy.folder)
    for name in ("a/1", "b/5"):
        with pytest.raises(InputError, match=f"the row of {name} is damaged"):
            pack.open(name)
    with pytest.raises(UnreadableClip, match=r"a/zwei, 2: its places|Invalid argument|ends before"):
        pack.open("a/zwei, 2").read([0])
    with database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(InputError, match="version 7"):
        Pack(copy.folder)
    database.close()
    (copy.folder / "index.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(InputError, match="not a readable index"):
        Pack(copy.folder)


def test_verifying_compares_the_index_with_the_members(copy: Packed) -> None:
    database = sqlite3.connect(copy.folder / "index.sqlite")
    with database:
        database.execute("UPDATE clips SET places = (SELECT places FROM clips WHERE name = 'b/5') WHERE name = 'a/1'")
    database.close()
    with pytest.raises(InputError, match="the index puts frames of a/1 elsewhere"):
        verify_pack(copy.folder)


@pytest.mark.parametrize("name", ["../00000000.json", "/00000000.json", "00000000.exe", "a/00000000.json"])
def test_strange_members_are_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(ValueError, match="is none of a pack's"):
        read_places(tmp_path / "x.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_the_like_are_refused(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("00000000.json")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(member)
    with pytest.raises(ValueError, match="is none of a pack's"):
        read_places(tmp_path / "x.tar")


# Processes, and other readers


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_processes_read_alike(packed: Packed, workers: int) -> None:
    packs = Packs([packed.folder])
    packs.open(packed.clips[0]).read([0])  # what is open here is of no use to forked processes
    config = DataConfig(frame_size=(32, 40), input_size=32)
    dataset = ViewDataset(packed.clips, config, Views(3, 1), packs.open)
    loader: DataLoader[Any] = DataLoader(dataset, 2, collate_fn=collate_views, num_workers=workers)
    batches = list(loader)
    assert [skip.name for batch in batches for skip in batch.skipped] == ["b/broken.mp4"]
    frames = {name: batch.frames[i] for batch in batches for i, name in enumerate(batch.names)}
    for number, clip in enumerate(packed.clips):
        if clip.name in frames:
            assert frames[clip.name].equal(dataset[number].frames)  # type: ignore[union-attr]


def test_a_pack_can_be_sent_to_a_process(packed: Packed) -> None:
    packs = Packs([packed.folder])
    opened = pickle.loads(pickle.dumps(packs.open))
    np.testing.assert_array_equal(opened(packed.clips[0]).read([1]), packs.open(packed.clips[0]).read([1]))


def test_shards_are_ordinary_webdatasets(packed: Packed, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted((packed.folder / "shards").iterdir())]
    samples = list(wds.WebDataset(urls, shardshuffle=False))
    assert [json.loads(sample["json"])["name"] for sample in samples] == [c.name for c in readable(packed.clips)]
    pack = Pack(packed.folder)
    for sample in samples:
        facts = json.loads(sample["json"])
        frames = pack.open(facts["name"]).read(range(facts["frames"]))
        assert frames.shape[1:3] == (facts["height"], facts["width"])
        if packed.format == "jpeg":
            for number, frame in enumerate(frames):
                image = np.asarray(Image.open(io.BytesIO(sample[f"{number:06d}.jpg"])))
                assert np.abs(frame.astype(int) - image).mean() < 1  # another JPEG decoder
        else:
            with av.open(io.BytesIO(sample["h264"]), format="h264") as container:
                decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            height, width = frames.shape[1:3]
            np.testing.assert_array_equal(np.stack(decoded)[:, :height, :width], frames)


def test_workers_write_what_encoding_gives(packed: Packed, tmp_path: Path) -> None:
    encoded = encode_clip(packed.root / "a/3.avi", SETTINGS[packed.format], tmp_path / "part")
    row = Pack(packed.folder).index.clip("a/3.avi")
    assert row is not None
    assert row.digest == encoded.digest
    assert row.places["size"].tolist() == encoded.sizes.tolist()
    assert encoded.fps == 10
