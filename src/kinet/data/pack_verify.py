"""Reading a whole pack back: every byte against its checksum, every frame's place against the tar file's members."""

from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path

from kinet.data.pack import check_sizes, shard_path
from kinet.data.pack_codec import SUFFIX
from kinet.data.pack_index import PackIndex, ShardRow
from kinet.errors import InputError
from kinet.progress import clip_progress

MEMBER = re.compile(r"[0-9]{8}\.(json|h264|[0-9]{6}\.jpg)")
"""The names that a shard's members may have."""


def verify_pack(folder: Path) -> int:
    """Check every shard of a pack; returns their number. Progress, in shards, goes to stderr.

    Raises InputError, which names the shard, where its checksum or size differs, where a member is not an ordinary
    file or has a strange name, and where the index puts a frame elsewhere than the tar file does.
    """
    index = PackIndex(folder)
    check_sizes(folder, index)
    shards = index.shards()
    with clip_progress("verifying", len(shards), unit="shards") as advance:
        for shard in shards:
            fault = find_fault(shard_path(folder, shard.number), shard, index)
            if fault is not None:
                raise InputError(
                    f"{shard_path(folder, shard.number)}: {fault}; remove it and run kinet pack again to pack its "
                    "clips anew"
                )
            advance(1, "")
    index.close()
    return len(shards)


def find_fault(path: Path, shard: ShardRow, index: PackIndex) -> str | None:
    """What is wrong with a shard, in one line; None if nothing is."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            return "its checksum differs from the index's"
    try:
        found = read_places(path)
    except (tarfile.TarError, ValueError) as error:
        return str(error)
    suffix = SUFFIX[index.settings().format]
    for clip in index.clips_of(shard.number):
        key = f"{clip.number:08d}"
        if suffix == SUFFIX["jpeg"]:
            expected = {f"{key}.{n:06d}.{suffix}": tuple(place) for n, place in enumerate(clip.places.tolist())}
        else:
            expected = {f"{key}.{suffix}": (int(clip.places["offset"][0]), int(clip.places["size"].sum()))}
        if any(found.get(name) != place for name, place in expected.items()):
            return f"the index puts frames of {clip.name} elsewhere"
    return None


def read_places(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of each member's bytes. Raises ValueError on a member that a pack does not have."""
    places = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if not member.isreg() or MEMBER.fullmatch(member.name) is None:
                raise ValueError(f"its member {member.name!r} is none of a pack's")
            places[member.name] = (member.offset_data, member.size)
    return places
