"""The score file: what a test leaves behind for metrics, fusion and figures, without the network."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinet.errors import InputError

ARRAYS = ("names", "labels", "scores", "classes", "views")


@dataclass(frozen=True, slots=True, eq=False)
class ScoreFile:
    """The scores of V clips over C classes.

    Raises ``InputError`` where the shapes disagree, a label is no index into ``classes``, or a score is not
    finite.
    """

    names: tuple[str, ...]
    """(V,) the clips' names, as their manifest writes them."""
    labels: NDArray[np.int64]
    """(V,) true classes, indices into ``classes``."""
    scores: NDArray[np.float32]
    """(V, C) class scores before softmax, averaged over the views."""
    classes: tuple[str, ...]
    """(C,) class names, in the order of the columns of ``scores``."""
    views: str
    """How the clips were seen, as ``kinet test --views`` takes it: ``25x10`` is 25 segments of 10 crops."""

    def __post_init__(self) -> None:
        expected = (len(self.names), len(self.classes))
        if self.scores.shape != expected or self.labels.shape != expected[:1]:
            raise InputError(
                f"scores: {expected[0]} names and {expected[1]} classes, but scores of shape "
                f"{self.scores.shape} and labels of shape {self.labels.shape}; write them with `kinet test`"
            )
        if not np.isfinite(self.scores).all():
            clip = self.names[int(np.flatnonzero(~np.isfinite(self.scores).all(axis=1))[0])]
            raise InputError(f"scores: clip {clip} has a score that is not finite; test again, in 32-bit precision")
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= expected[1]))
        if outside.size:
            clip, label = self.names[int(outside[0])], self.labels[outside[0]]
            raise InputError(f"scores: clip {clip} has label {label}, outside of the {expected[1]} classes")


def write_scores(path: Path, scores: ScoreFile) -> None:
    """Write a compressed ``.npz`` of the arrays names, labels, scores, classes and views.

    The file appears complete or not at all: it is written beside ``path`` and renamed. Missing folders are
    made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(
                file,
                names=np.array(scores.names, dtype=np.str_),
                labels=scores.labels.astype(np.int64),
                scores=scores.scores.astype(np.float32),
                classes=np.array(scores.classes, dtype=np.str_),
                views=np.array(scores.views),
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_scores(path: Path) -> ScoreFile:
    """Read a score file. No pickled object is loaded.

    Raises ``InputError``: no such file, not a score file, an array missing or of another type, or the causes
    of ``ScoreFile``.
    """
    again = "write it with `kinet test`"
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise InputError(f"{path}: one array, not a score file; {again}")
        with file:
            missing = [name for name in ARRAYS if name not in file.files]
            if missing:
                raise InputError(f"{path}: not a score file, it has no array {missing[0]!r}; {again}")
            arrays = {name: file[name] for name in ARRAYS}
    except FileNotFoundError:
        raise InputError(f"{path}: no such score file; {again}") from None
    except OSError as error:
        raise InputError(f"{path}: the score file cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, RuntimeError, MemoryError, struct.error, zipfile.BadZipFile, zlib.error):
        raise InputError(f"{path}: damaged, or not a score file; {again}") from None
    for name, kinds, dimensions in (
        ("names", "U", 1),
        ("labels", "iu", 1),
        ("scores", "f", 2),
        ("classes", "U", 1),
        ("views", "U", 0),
    ):
        array = arrays[name]
        if array.dtype.kind not in kinds or array.ndim != dimensions:
            raise InputError(f"{path}: array {name!r} is {array.dtype} of shape {array.shape}; {again}")
    try:
        return ScoreFile(
            names=tuple(arrays["names"].tolist()),
            labels=arrays["labels"].astype(np.int64),
            scores=arrays["scores"].astype(np.float32),
            classes=tuple(arrays["classes"].tolist()),
            views=str(arrays["views"]),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
