"""A video stream as its coded pictures, read from the bitstream without decoding it.

Which frames decoding gives, and in which order, is not taken from a container's times or counts, which may be
missing or wrong, but from the headers of the pictures themselves. What a reader of headers does not fully
understand it refuses as ``Irregular``, and the stream is decoded in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import av


class Irregular(Exception):
    """The frames of a stream can only be told by decoding all of it; the message says why."""


class Picture(NamedTuple):
    """What one packet makes the decoder do: decode one picture, or take note of one that is left out.

    ``packet`` has the picture's number, its place in the stream, as its time: decoders hand it on to the frame.
    ``start`` is the number of the picture from which on a decoder that knows nothing of the stream must be fed,
    leaving out those that are no ``reference``, to give this one exactly.
    """

    packet: av.Packet[Any]
    start: int
    reference: bool


@dataclass(frozen=True)
class CodedStream:
    """The pictures in the order they are fed to the decoder, and the picture of each frame it gives, in order."""

    pictures: Sequence[Picture]
    shown: Sequence[int]


class HeaderBits:
    """Reads a header bit by bit (ISO/IEC 14496-10, 9.1). Raises Irregular at the end of ``data``."""

    def __init__(self, data: bytes) -> None:
        self._bits = bin(int.from_bytes(b"\1" + data, "big"))[3:]
        self._position = 0

    def number(self, bits: int) -> int:
        """An unsigned number of ``bits`` bits; 0 for none."""
        end = self._position + bits
        if end > len(self._bits):
            raise Irregular("a header is cut short")
        value = int(self._bits[self._position : end] or "0", 2)
        self._position = end
        return value

    def flag(self) -> bool:
        return self.number(1) == 1

    def golomb(self) -> int:
        """ue(v): an unsigned Exp-Golomb number."""
        one = self._bits.find("1", self._position)
        end = 2 * one - self._position + 1  # as many bits follow the one as there are zeros before it
        if one < 0 or end > len(self._bits):
            raise Irregular("a header is cut short")
        self._position = end
        return int(self._bits[one:end], 2) - 1

    def signed_golomb(self) -> int:
        """se(v): a signed Exp-Golomb number."""
        value = self.golomb()
        return (value + 1) // 2 if value % 2 else -value // 2
