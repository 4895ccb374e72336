"""The index of a pack: which clips are in which shard, and where each of their frames lies in it.

One SQLite file. It is asked for one clip at a time and nothing of it is kept in memory, so that a pack may hold any
number of clips. A shard and its clips enter it in one transaction, once the shard's file is in place.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kinet.data.pack_codec import PackSettings
from kinet.errors import InputError

FILE = "index.sqlite"
VERSION = 1
"""SQLite's user_version: raise it when older code cannot read what is written."""
PLACE = np.dtype([("offset", "<u8"), ("size", "<u4")])
"""Where a frame's bytes lie in its shard."""
MAX_PIXELS = 100_000_000
TABLES = """
CREATE TABLE settings (json TEXT NOT NULL);
CREATE TABLE shards (number INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE clips (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, shard INTEGER NOT NULL, source_bytes INTEGER NOT NULL,
    height INTEGER NOT NULL, width INTEGER NOT NULL, digest BLOB NOT NULL, frames INTEGER NOT NULL, places BLOB NOT NULL
);
CREATE INDEX clips_of_shard ON clips (shard);
CREATE TABLE unreadable (name TEXT PRIMARY KEY, cause TEXT NOT NULL);
"""
COLUMNS = "number, name, shard, source_bytes, height, width, digest, places"


@dataclass(frozen=True)
class ClipRow:
    """A packed clip."""

    number: int
    """Its members in the shard are named by it."""
    name: str
    shard: int
    source_bytes: int
    """Size of the file that it was made from; 0 of a folder of images."""
    height: int
    width: int
    digest: bytes
    """SHA-256 of its encoded frames."""
    places: npt.NDArray[np.void]
    """(frames,) of ``PLACE``."""


@dataclass(frozen=True)
class ShardRow:
    """A finished shard."""

    number: int
    bytes: int
    sha256: str


class PackIndex:
    """The index in the pack's ``folder``. A process must not use what it inherited from another by a fork.

    Raises InputError, here and later, where the file is not such an index, or damaged.
    """

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        self.path = folder / FILE
        if not self.path.is_file():
            raise InputError(f"{folder}: not a pack ({FILE} is missing); kinet pack MANIFEST {folder} makes one")
        mode = "rw" if write else "ro"
        self._database = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=60)
        self._database.execute("PRAGMA trusted_schema = OFF")
        ((version,),) = self._ask("PRAGMA user_version")
        if version != VERSION:
            raise InputError(f"{self.path}: an index of version {version}, this is version {VERSION}; pack anew")

    @classmethod
    def create(cls, folder: Path, settings: PackSettings) -> PackIndex:
        """A new index in an existing folder; it appears whole or not at all."""
        temporary = folder / f"{FILE}.tmp"
        temporary.unlink(missing_ok=True)
        database = sqlite3.connect(temporary)
        database.executescript(TABLES)
        database.execute("INSERT INTO settings VALUES (?)", (json.dumps(asdict(settings)),))
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.commit()
        database.close()
        os.replace(temporary, folder / FILE)
        return cls(folder, write=True)

    def close(self) -> None:
        self._database.close()

    def settings(self) -> PackSettings:
        ((text,),) = self._ask("SELECT json FROM settings")
        try:
            return PackSettings(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.path}: damaged settings ({error}); pack anew") from error

    def clip(self, name: str) -> ClipRow | None:
        """The clip of this name; None where it is not packed."""
        for row in self._ask(f"SELECT {COLUMNS} FROM clips WHERE name = ?", name):
            return self._clip(row)
        return None

    def source_bytes(self, name: str) -> int | None:
        """``ClipRow.source_bytes``; None where the clip is not packed."""
        for (source_bytes,) in self._ask("SELECT source_bytes FROM clips WHERE name = ?", name):
            return int(source_bytes)
        return None

    def cause(self, name: str) -> str | None:
        """Why the clip could not be packed; None where nothing is known of that."""
        for (cause,) in self._ask("SELECT cause FROM unreadable WHERE name = ?", name):
            return str(cause)
        return None

    def unreadable(self) -> Iterator[tuple[str, str]]:
        """Name and cause of the clips that could not be packed."""
        yield from self._ask("SELECT name, cause FROM unreadable ORDER BY name")

    def shards(self) -> list[ShardRow]:
        return [ShardRow(*row) for row in self._ask("SELECT number, bytes, sha256 FROM shards ORDER BY number")]

    def clips_of(self, shard: int) -> Iterator[ClipRow]:
        """The clips of a shard in their order."""
        for row in self._ask(f"SELECT {COLUMNS} FROM clips WHERE shard = ? ORDER BY number", shard):
            yield self._clip(row)

    def counts(self) -> tuple[int, int]:
        """Clips and frames of the pack."""
        ((clips, frames),) = self._ask("SELECT count(*), coalesce(sum(frames), 0) FROM clips")
        return clips, frames

    def last_numbers(self) -> tuple[int, int]:
        """The highest numbers of a clip and of a shard, -1 where there is none."""
        ((clip,),) = self._ask("SELECT coalesce(max(number), -1) FROM clips")
        ((shard,),) = self._ask("SELECT coalesce(max(number), -1) FROM shards")
        return clip, shard

    def add_shard(self, shard: ShardRow, clips: Sequence[ClipRow]) -> None:
        """Enter a finished shard and its clips."""
        with self._change():
            self._database.execute("INSERT INTO shards VALUES (?, ?, ?)", (shard.number, shard.bytes, shard.sha256))
            for clip in clips:
                values = (clip.number, clip.name, clip.shard, clip.source_bytes, clip.height, clip.width, clip.digest)
                places = clip.places.tobytes()
                self._database.execute(
                    "INSERT INTO clips VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, len(clip.places), places)
                )
                self._database.execute("DELETE FROM unreadable WHERE name = ?", (clip.name,))

    def drop_shard(self, number: int) -> int:
        """Forget a shard whose file is gone; returns how many clips went with it."""
        with self._change():
            self._database.execute("DELETE FROM shards WHERE number = ?", (number,))
            return self._database.execute("DELETE FROM clips WHERE shard = ?", (number,)).rowcount

    def add_unreadable(self, name: str, cause: str) -> None:
        with self._change():
            self._database.execute("INSERT OR REPLACE INTO unreadable VALUES (?, ?)", (name, cause))

    @contextmanager
    def _change(self) -> Iterator[None]:
        """All or nothing of what is done inside."""
        try:
            with self._database:
                yield
        except sqlite3.Error as error:
            raise InputError(f"{self.path}: cannot be written ({error})") from error

    def _ask(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._database.execute(query, values)
        except sqlite3.Error as error:
            raise InputError(f"{self.path}: not a readable index ({error}); pack anew") from error

    def _clip(self, row: tuple[Any, ...]) -> ClipRow:
        number, name, shard, source_bytes, height, width, digest, blob = row
        if len(blob) % PLACE.itemsize or not blob or height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise InputError(f"{self.path}: the row of {name} is damaged; pack anew")
        return ClipRow(number, name, shard, source_bytes, height, width, digest, np.frombuffer(blob, PLACE))
