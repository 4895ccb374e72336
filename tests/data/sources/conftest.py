"""Made trees of clips and lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from kinet.errors import InputError

MakeTree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> MakeTree:
    """Makes a folder of empty files."""

    def make(name: str, *paths: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
        return folder

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of lines, with the line ends of a system."""

    def make(name: str, *lines: str, ends: str = "\n") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(line + ends for line in lines).encode())
        return path

    return make


@pytest.fixture
def lines_of(tmp_path: Path) -> Callable[[bytes, Callable[[Path], Iterable[Any]]], list[Any]]:
    """What a reader of lists makes of any bytes: nothing where it refuses them, in one line."""

    def read(content: bytes, reader: Callable[[Path], Iterable[Any]]) -> list[Any]:
        path = tmp_path / "noise"
        path.write_bytes(content)
        try:
            return list(reader(path))
        except InputError as error:
            message = str(error)
        assert "\n" not in message
        return []

    return read
