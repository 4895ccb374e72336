"""A picture's header is read as it was written, and refused where it is damaged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet.data.coded import Irregular
from kinet.data.mpeg4 import _read_vop


def header(kind: int, coded: bool, elapsed: int, ticks: int, tick_bits: int, markers: str = "11") -> str:
    """The bits of 6.2.5 after the start code."""
    return f"{kind:02b}{'1' * elapsed}0{markers[0]}{ticks:0{tick_bits}b}{markers[1]}{coded:d}"


def to_bytes(bits: str) -> bytes:
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


@given(st.data(), st.integers(0, 2), st.booleans(), st.integers(0, 100), st.integers(1, 16), st.binary(max_size=3))
def test_headers_are_read_as_written(
    data: st.DataObject, kind: int, coded: bool, elapsed: int, tick_bits: int, behind: bytes
) -> None:
    ticks = data.draw(st.integers(0, (1 << tick_bits) - 1))
    bits = header(kind, coded, elapsed, ticks, tick_bits)
    assert _read_vop(to_bytes(bits) + behind, tick_bits) == (kind, coded, elapsed, ticks)
    for length in range(len(to_bytes(bits))):
        with pytest.raises(Irregular):
            _read_vop(to_bytes(bits)[:length], tick_bits)


@pytest.mark.parametrize("bits", [header(3, True, 0, 9, 5), *(header(1, True, 1, 9, 5, m) for m in ("01", "10"))])
def test_damaged_headers_are_refused(bits: str) -> None:
    with pytest.raises(Irregular):
        _read_vop(to_bytes(bits), 5)
