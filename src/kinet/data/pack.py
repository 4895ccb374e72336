"""Reading packs: folders that ``kinet pack`` makes, in which every frame of a clip can be read by itself.

::

    <pack>/index.sqlite        where each frame lies (pack_index.py)
    <pack>/shards/000000.tar   the frames, in tar files that WebDataset reads too
    <pack>/labels              the teachers' labels of these frames (teachers/cache.py)
    <pack>/skipped.csv         clips that could not be read

Reading n frames takes one look into the index and n reads at their places; no tar file is walked through, and no
path is made from a clip's name or a member's.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kinet.data.clip import FrameSource, UnreadableClip
from kinet.data.manifest import Clip, Manifest
from kinet.data.pack_codec import decode_frames
from kinet.data.pack_index import ClipRow, PackIndex
from kinet.errors import InputError

SHARDS = "shards"
LABELS = "labels"
OPEN_FILES = 64
"""Shards that a process keeps open."""
MAX_READ = 2**30
"""Bytes of a group of frames; an index that says more is damaged."""


class Pack:
    """The pack in ``folder``. Processes that were forked from this one, or get it sent, open files of their own.

    Raises InputError: no pack, or a shard is missing or not of the size that the index says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._process: int | None = None
        self._files: OrderedDict[int, int] = OrderedDict()
        self.settings = self.index.settings()
        check_sizes(self.folder, self.index)

    def __reduce__(self) -> tuple[type[Pack], tuple[Path]]:
        return Pack, (self.folder,)

    @property
    def index(self) -> PackIndex:
        if self._process != os.getpid():  # SQLite must not be used across a fork
            self._index = PackIndex(self.folder)
            self._files = OrderedDict()
            self._process = os.getpid()
        return self._index

    def open(self, name: str) -> FrameSource:
        """The clip that the manifest calls ``name``.

        Raises UnreadableClip with the cause where packing could not read it, InputError where the pack lacks it.
        """
        return PackedClip(self, self._row(name))

    def key(self, name: str) -> str:
        """SHA-256, in hexadecimal, over the clip's name and its packed frames. Raises as ``open`` does."""
        row = self._row(name)
        return hashlib.sha256(b"packed\0" + name.encode() + b"\0" + row.digest).hexdigest()

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Bytes of a shard. Raises UnreadableClip where they are not there."""
        _ = self.index  # makes sure that the open files are this process's
        path = shard_path(self.folder, shard)
        try:
            if shard not in self._files:
                if len(self._files) >= OPEN_FILES:
                    os.close(self._files.popitem(last=False)[1])
                self._files[shard] = os.open(path, os.O_RDONLY)
            self._files.move_to_end(shard)
            data = os.pread(self._files[shard], size, offset)
        except OSError as error:
            raise UnreadableClip(path, error.strerror or str(error)) from error
        if len(data) != size:
            raise UnreadableClip(path, f"ends before byte {offset + size}")
        return data

    def _row(self, name: str) -> ClipRow:
        row = self.index.clip(name)
        if row is not None:
            return row
        cause = self.index.cause(name)
        if cause is not None:
            raise UnreadableClip(Path(name), f"when it was packed: {cause}")
        raise InputError(f"{self.folder}: {name} is not in this pack; add it with kinet pack")


class PackedClip:
    """The frames of a packed clip; a ``FrameSource``."""

    def __init__(self, pack: Pack, row: ClipRow) -> None:
        self.pack = pack
        self.row = row

    def __len__(self) -> int:
        return len(self.row.places)

    def read(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """See ``FrameSource.read``."""
        wanted = [int(index) for index in indices]
        for number in wanted:
            if not 0 <= number < len(self):
                raise IndexError(f"frame {number} of a clip of {len(self)}")
        row, format = self.row, self.pack.settings.format
        try:
            return decode_frames(format, self._read_encoded, wanted, row.height, row.width)
        except ValueError as error:
            raise UnreadableClip(shard_path(self.pack.folder, row.shard), f"{row.name}: {error}") from error

    def _read_encoded(self, first: int, last: int) -> list[bytes]:
        """The encoded frames [first, last), by a single read: they lie one behind the other."""
        places: list[tuple[int, int]] = self.row.places[first:last].tolist()
        start, (end, size) = places[0][0], places[-1]
        if not 0 <= end + size - start <= MAX_READ or any(offset < start for offset, _ in places):
            raise ValueError("its places in the index are damaged")
        data = self.pack.read(self.row.shard, start, end + size - start)
        return [data[offset - start : offset - start + size] for offset, size in places]


class Packs:
    """One or more packs that the clips of a training, and its validation and test clips, are read from.

    A clip is taken from the first pack that has it; ``kinet test`` of a run looks into the run's packs too.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self.packs = [Pack(folder) for folder in folders]

    def find(self, clip: Clip) -> int:
        """The place of the first pack that has the clip, or else of one that could not read it.

        Raises InputError where no pack knows the clip.
        """
        for known in (PackIndex.source_bytes, PackIndex.cause):
            for place, pack in enumerate(self.packs):
                if known(pack.index, clip.name) is not None:
                    return place
        raise InputError(f"{self}: {clip.name} is not packed; add it with kinet pack")

    def open(self, clip: Clip) -> FrameSource:
        """The clip's frames. Raises as ``Pack.open``."""
        return self.packs[self.find(clip)].open(clip.name)

    def key(self, clip: Clip) -> str:
        """Names the clip's labels; see ``Pack.key``."""
        return self.packs[self.find(clip)].key(clip.name)

    def check(self, clips: Manifest) -> list[tuple[str, str]]:
        """Make sure that the packs know all ``clips``; returns name and cause of those that could not be packed.

        Raises InputError, with their number and the first one's name, where clips are missing.
        """
        causes = {name: cause for pack in self.packs for name, cause in pack.index.unreadable()}
        missing, first, unreadable = 0, "", []
        for clip in clips:
            if any(pack.index.source_bytes(clip.name) is not None for pack in self.packs):
                continue
            if clip.name in causes:
                unreadable.append((clip.name, causes[clip.name]))
            else:
                missing, first = missing + 1, first or clip.name
        if missing:
            raise InputError(
                f"{self}: {missing} of the {len(clips)} clips of {clips.source} are not packed, the first is {first}; "
                f"run kinet pack {clips.source} {self.packs[0].folder}"
            )
        return unreadable

    def __str__(self) -> str:
        return ", ".join(str(pack.folder) for pack in self.packs)


def open_packs(folders: str | Sequence[str] | None, manifests: Sequence[Manifest]) -> Packs | None:
    """The packs that ``data.pack`` names; None for the original files.

    Says on stderr how many clips of the manifests could not be read when they were packed. Raises InputError where
    the packs lack clips of the manifests.
    """
    if not folders:
        return None
    packs = Packs(Path(folder) for folder in ([folders] if isinstance(folders, str) else folders))
    for manifest in manifests:
        unreadable = packs.check(manifest)
        if unreadable:
            print(
                f"{packs}: {len(unreadable)} of the {len(manifest)} clips of {manifest.source} could not be read when "
                f"they were packed; the first, {unreadable[0][0]}: {unreadable[0][1]}",
                file=sys.stderr,
            )
    return packs


def shard_path(folder: Path, number: int) -> Path:
    return folder / SHARDS / f"{number:06d}.tar"


def check_sizes(folder: Path, index: PackIndex) -> None:
    """Raise InputError where a shard is missing or of another size than the index says."""
    try:
        found = {file.name: file.stat().st_size for file in os.scandir(folder / SHARDS)}
    except OSError as error:
        raise InputError(f"{folder / SHARDS}: cannot be listed ({error.strerror})") from error
    for shard in index.shards():
        path = shard_path(folder, shard.number)
        size = found.get(path.name)
        if size is None:
            raise InputError(f"{path}: missing; run kinet pack again to pack its clips anew")
        if size != shard.bytes:
            raise InputError(
                f"{path}: has {size} bytes, not {shard.bytes}; remove it and run kinet pack again to pack its clips "
                "anew"
            )
