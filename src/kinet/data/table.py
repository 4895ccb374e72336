"""Text files that list clips, read line by line: csv with a header, and plain lines. Wrong ones are InputErrors."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinet.errors import InputError

BREAKS = frozenset("\0\r\n")
"""What no value and no name may hold."""


def read_columns(
    path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line numbers, and the values of ``columns`` and then of ``optional`` ones, of a csv file.

    UTF-8 with or without a byte order mark; spaces around values are dropped and blank lines skipped. Values of
    ``columns`` are never empty; those of an ``optional`` column that is not there are.

    Raises InputError, with the line's number, on a missing file or column, a row that is not as the header says, an
    empty value, and one that holds a line break or a NUL.
    """
    with _open(path) as (reader, header):
        for name in columns:
            if name not in header:
                raise InputError(f"{path}: the first line must name {','.join(columns)}; {name} is missing")
        places = [header.index(name) for name in columns]
        extra = [header.index(name) if name in header else None for name in optional]
        width = len(header)
        for row in reader:
            if len(row) < 2 and not "".join(row).strip():
                continue
            if len(row) != width:
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(row)} values under {width} columns; "
                    "quote a value that holds a comma"
                )
            values = tuple([row[place].strip() for place in places])
            if not all(values):
                raise InputError(f"{path}, line {reader.line_num}: the {columns[values.index('')]} is empty")
            text = "".join(values)
            if "\0" in text or "\n" in text or "\r" in text:
                faulty = next(name for name, value in zip(columns, values, strict=True) if not BREAKS.isdisjoint(value))
                raise InputError(f"{path}, line {reader.line_num}: the {faulty} holds a line break or a NUL")
            if extra:
                values += tuple(["" if place is None else row[place].strip() for place in extra])
            yield reader.line_num, values


def read_header(path: Path) -> list[str]:
    """The names in the first line of a csv file; raises InputError."""
    with _open(path) as (_, header):
        return header


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, list[str]]]:
    """A csv reader behind the header, and the header."""
    reader = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            yield reader, [name.strip() for name in next(reader, [])]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    except csv.Error as error:
        line = reader.line_num if reader is not None else 1
        raise InputError(f"{path}, line {line}: not csv ({error})") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers and texts of the lines that are not blank, without the spaces around them; any line ends.

    Raises InputError on a missing file, text that is not UTF-8 and a NUL.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if "\0" in line:
            raise InputError(f"{path}, line {number}: holds a NUL; is this a text file?")
        if line.strip():
            yield number, line.strip()


def read_text(path: Path) -> str:
    """A UTF-8 file, with ``\\n`` for any line end; raises InputError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error


def not_utf8(path: Path) -> InputError:
    """The error that names the first line that is not text."""
    lines = path.read_bytes().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if not is_utf8(text))
    return InputError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8")


def is_utf8(text: str | bytes) -> bool:
    """Whether the bytes are UTF-8, or the text can be written so."""
    try:
        _ = text.encode() if isinstance(text, str) else text.decode()
    except UnicodeError:
        return False
    return True
