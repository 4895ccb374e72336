"""A folder per class: videos, or folders of images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from kinet.data.groups import Row
from kinet.data.table import read_columns
from kinet.data.video import VIDEO_SUFFIXES
from kinet.errors import InputError


def index_folder(folder: Path, keep: Path | None = None) -> list[Row]:
    """Rows (path, label) of the video files ``folder/<class>/<video>``, sorted; paths relative to ``folder``.

    ``keep``: a csv with the columns ``class,video_name`` (name with or without its extension): the clips to
    keep, in its order. A manifest written elsewhere than into ``folder`` needs ``folder`` as its root.
    Raises InputError where there are none, and where a listed one is missing.
    """
    return _index(folder, keep, "video files", _is_video)


def index_frames(folder: Path, keep: Path | None = None) -> list[Row]:
    """As ``index_folder``, of clips that are folders of images: ``folder/<class>/<clip>/<image>``."""
    return _index(folder, keep, "folders of images", lambda entry: entry.is_dir())


def _index(folder: Path, keep: Path | None, kind: str, is_clip: Callable[[os.DirEntry[str]], bool]) -> list[Row]:
    try:
        found = [
            (label, name)
            for label in _names(folder, lambda entry: entry.is_dir())
            for name in _names(folder / label, is_clip)
        ]
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be listed ({error.strerror})") from error
    if not found:
        raise InputError(f"{folder}: no {kind} found; expected {folder}/<class>/<clip>")
    if keep is not None:
        found = _keep_listed(found, keep, folder)
    return [(f"{label}/{name}", label) for label, name in found]


def _keep_listed(found: list[tuple[str, str]], keep: Path, folder: Path) -> list[tuple[str, str]]:
    names: dict[tuple[str, str], list[str]] = {}
    for label, name in found:
        for spelling in {name, os.path.splitext(name)[0]}:
            names.setdefault((label, spelling), []).append(name)
    kept: list[tuple[str, str]] = []
    missing: list[str] = []
    for line, (label, name) in read_columns(keep, ("class", "video_name")):
        matches = names.get((label, name), [])
        if name in matches:
            matches = [name]
        if len(matches) > 1:
            raise InputError(
                f"{keep}, line {line}: {label}/{name} may be any of {', '.join(matches)}; add the extension"
            )
        if matches:
            kept.append((label, matches[0]))
        else:
            missing.append(f"{label}/{name} (line {line})")
    if missing:
        raise InputError(
            f"{keep}: {len(missing)} of {len(missing) + len(kept)} listed clips are not in {folder}; "
            f"the first is {missing[0]}"
        )
    if not kept:
        raise InputError(f"{keep}: no clips listed; expected a line class,video_name for each below the header")
    return kept


def _names(folder: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and wanted(entry))


def _is_video(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in VIDEO_SUFFIXES and entry.is_file()
