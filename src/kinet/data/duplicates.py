"""Clips with the same content under different names, found without reading more of them than that takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from hashlib import blake2b

from kinet.data.images import IMAGE_SUFFIXES

END = 65_536
"""Bytes at a file's beginning and end that are compared before all of it is."""


def repeated(keys: Iterable[Hashable]) -> list[list[int]]:
    """The places of each key that is there more than once; None is no key."""
    first: dict[Hashable, int] = {}
    places: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        if key is not None and first.setdefault(key, place) != place:
            places.setdefault(key, [first[key]]).append(place)
    return list(places.values())


def same_content(
    paths: Sequence[str], progress: Callable[[int], None] = lambda clips: None
) -> tuple[list[list[int]], dict[int, str]]:
    """Sets of places in ``paths`` (different video files or folders of images) that hold the same bytes.

    Sizes are compared first, then both ends of the files of equal size, then all of those whose ends are equal.
    ``progress`` is called after each clip's size. Also returned is why clips could not be read, by their place.
    Empty files are alike but no duplicates.
    """
    unreadable: dict[int, str] = {}

    def measured(place: int, measure: Callable[[str], Hashable]) -> Hashable:
        try:
            return measure(paths[place])
        except OSError as error:
            unreadable[place] = error.strerror or str(error)
            return None

    def sizes() -> Iterable[Hashable]:
        for place in range(len(paths)):
            yield measured(place, _size)
            progress(1)

    alike = repeated(sizes())
    for measure in (_ends, _digest):
        alike = [
            [members[number] for number in same]
            for members in alike
            for same in repeated(measured(place, measure) for place in members)
        ]
    return alike, unreadable


def _size(path: str) -> tuple[int, int] | None:
    """Files and bytes of a clip."""
    sizes = [os.path.getsize(file) for file in _files(path)]
    return (len(sizes), sum(sizes)) if sum(sizes) else None


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    names = [name for name in os.listdir(path) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    return [os.path.join(path, name) for name in sorted(names)]


def _ends(path: str) -> bytes:
    """A digest of both ends of a clip's first file."""
    with open(_files(path)[0], "rb") as file:
        digest = blake2b(file.read(END), digest_size=16)
        file.seek(max(END, os.fstat(file.fileno()).st_size - END))
        digest.update(file.read(END))
    return digest.digest()


def _digest(path: str) -> bytes:
    """A digest of all of a clip's files, in their order."""
    digest = blake2b(digest_size=16)
    for name in _files(path):
        digest.update(os.path.getsize(name).to_bytes(8))
        with open(name, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.digest()
