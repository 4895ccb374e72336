"""Reading lists of clips: csv columns and plain lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinet.data.table import read_columns, read_header, read_lines
from kinet.errors import InputError


def test_columns_in_the_order_asked_for_with_optional_ones(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b'\xef\xbb\xbfa, b ,c\r\n1,"2, 3",\r\n\r\n4, 5 ,6\r\n')
    assert read_header(path) == ["a", "b", "c"]
    assert list(read_columns(path, ("b", "a"), optional=("c", "d"))) == [
        (2, ("2, 3", "1", "", "")),
        (4, ("5", "4", "6", "")),
    ]
    with pytest.raises(InputError, match="line 2: the c is empty"):
        list(read_columns(path, ("a", "c")))
    with pytest.raises(InputError, match="a,d; d is missing"):
        list(read_columns(path, ("a", "d")))


def test_one_column(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a\n1\n  \n2\n")
    assert list(read_columns(path, ("a",))) == [(2, ("1",)), (4, ("2",))]


def test_an_empty_file_has_no_header(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.touch()
    assert read_header(path) == []
    with pytest.raises(InputError, match="cannot be read"):
        read_header(tmp_path)


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_lines_with_any_ends(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(("\ufeff one\u2028two \n\n\tthree").replace("\n", ends).encode())
    assert list(read_lines(path)) == [(1, "one\u2028two"), (3, "three")]


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for content, said in ((b"a\n\0b", "line 2: holds a NUL"), (b"a\n\xff", "line 2: not UTF-8")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            list(read_lines(path))
    with pytest.raises(InputError, match="No such file"):
        list(read_lines(tmp_path / "nothing.txt"))
