"""Folders by class: videos, folders of images, and lists of those to keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kinet.data.manifest import read_manifest, write_manifest
from kinet.data.sources.folder import index_folder, index_frames
from kinet.errors import InputError

Write = Callable[..., Path]


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        action()
    return str(caught.value)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for name in ("wave/b.AVI", "wave/a.mp4", "wave/notes.txt", "wave/.c.mp4", "clap hands/x.1.mkv", "readme.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name in ("wave/frames.avi", "wave/.git", "clap hands/f2", ".cache/f3"):
        (folder / name).mkdir(parents=True)
    return folder


def test_video_files_are_indexed_by_folder(videos: Path) -> None:
    rows = [("clap hands/x.1.mkv", "clap hands"), ("wave/a.mp4", "wave"), ("wave/b.AVI", "wave")]
    assert index_folder(videos) == rows


def test_folders_of_images_are_indexed_by_folder(videos: Path) -> None:
    assert index_frames(videos) == [("clap hands/f2", "clap hands"), ("wave/frames.avi", "wave")]


def test_an_index_is_a_manifest_of_its_folder(videos: Path, tmp_path: Path) -> None:
    for path, root in ((videos / "all.csv", None), (tmp_path / "elsewhere.csv", videos)):
        write_manifest(path, index_folder(videos))
        assert all(clip.path.is_file() for clip in read_manifest(path, root=root))


def test_a_list_keeps_its_clips_in_its_order(videos: Path, tmp_path: Path, write: Write) -> None:
    keep = write("test.csv", "class,video_name", "wave,b", "clap hands,x.1", "wave,a.mp4")
    names = [name for name, _ in index_folder(videos, keep)]
    assert names == ["wave/b.AVI", "clap hands/x.1.mkv", "wave/a.mp4"]
    (videos / "wave" / "a.mp4.avi").touch()
    assert index_folder(videos, write("test.csv", "class,video_name", "wave,a.mp4")) == [("wave/a.mp4", "wave")]
    keep = write("test.csv", "class,video_name", "wave,frames")
    assert index_frames(videos, keep) == [("wave/frames.avi", "wave")]


def test_a_list_that_does_not_fit_is_refused(videos: Path, tmp_path: Path, write: Write) -> None:
    keep = write("test.csv", "class,video_name", "wave,a", "wave,c", "run,a")
    message = error_of(lambda: index_folder(videos, keep))
    assert str(keep) in message
    assert "2 of 3 listed clips" in message
    assert "wave/c (line 3)" in message
    keep = write("test.csv", "class,video_name")
    assert "no clips listed" in error_of(lambda: index_folder(videos, keep))
    keep = write("test.csv", "path,label", "wave/a.mp4,wave")
    assert "class,video_name" in error_of(lambda: index_folder(videos, keep))
    (videos / "wave" / "a.avi").touch()
    keep = write("test.csv", "class,video_name", "wave,a")
    assert "wave/a may be any of a.avi, a.mp4" in error_of(lambda: index_folder(videos, keep))


def test_a_folder_without_clips_is_refused(tmp_path: Path) -> None:
    for index in (index_folder, index_frames):
        assert "cannot be listed" in error_of(lambda: index(tmp_path / "nothing"))  # noqa: B023
        assert "<class>/<clip>" in error_of(lambda: index(tmp_path))  # noqa: B023


def test_the_shared_splits_fit_their_frames(shared: Path) -> None:
    data = shared / "data"
    sizes = {"train": 900, "val": 225, "test": 125}
    rows = [index_frames(data / "hmdb25", data / "hmdb25_splits" / f"{split}.csv") for split in sizes]
    assert [len(split) for split in rows] == list(sizes.values())
    assert len({row for split in rows for row in split}) == 1250
