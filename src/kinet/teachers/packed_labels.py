"""The labels in packs: what the teachers say of the packed frames, in ``<pack>/labels``.

They are a ``LabelCache`` of their own: a packed frame is not the original to the last bit, nor are its labels.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from kinet.data.clip import UnreadableClip
from kinet.data.manifest import Clip, Manifest
from kinet.data.pack import LABELS, Packs
from kinet.errors import InputError
from kinet.teachers.cache import CachedLabels, LabelCache
from kinet.teachers.teacher import FrameLabels, Frames, Teacher


def packed_cache(packs: Packs, place: int, human: Teacher | None, scene: Teacher | None) -> LabelCache:
    """The labels in the pack at this place."""
    return LabelCache(packs.packs[place].folder / LABELS, human, scene, packs)


class PackedLabels:
    """Reads the labels in packs; a ``LabelSource``. See ``CachedLabels`` for what becomes of damaged files."""

    def __init__(self, packs: Packs, human: Teacher | None, scene: Teacher | None) -> None:
        self.packs = packs
        self.sources = [CachedLabels(packed_cache(packs, place, human, scene)) for place in range(len(packs.packs))]

    def labels(self, clip: Clip, indices: npt.NDArray[np.int64], frames: Frames) -> FrameLabels:
        """See ``LabelSource.labels``."""
        return self.sources[self.packs.find(clip)].labels(clip, indices, frames)

    def missing(self, clip: Clip) -> list[Teacher]:
        """The teachers whose labels of the clip are not there. Raises UnreadableClip."""
        cache, key = self.sources[self.packs.find(clip)].cache, self.packs.key(clip)
        return [teacher for teacher in cache.teachers if not cache.entry_path(key, teacher).exists()]


def find_packed_labels(packs: Packs, human: Teacher | None, scene: Teacher | None, clips: Manifest) -> PackedLabels:
    """The labels of these teachers in the packs. Raises InputError where labels of ``clips`` are missing."""
    source = PackedLabels(packs, human, scene)
    lacking: Counter[str] = Counter()
    first = ""
    for clip in clips:
        try:
            missing = source.missing(clip)
        except UnreadableClip:  # it is left out of training too
            continue
        lacking.update(f"{teacher.task} labels by {teacher.name}" for teacher in missing)
        first = first or (clip.name if missing else "")
    if lacking:
        lists = " and ".join(f"{what} for {count} clips" for what, count in lacking.items())
        raise InputError(
            f"{packs}: lacks {lists} of the {len(clips)} in {clips.source}, the first is {first}; run kinet pack with "
            "--human and --scene to add them"
        )
    return source
