"""The pictures of an H.264 stream from its slice headers. Clause numbers are of ISO/IEC 14496-10.

Frames come out in the order of their picture order counts, within each period that an IDR picture begins, and
a picture with nal_ref_idc 0 is needed by no other. Decoding may start at an IDR picture only: what follows a
mere recovery point may lean on what came before it.
"""

from __future__ import annotations

import re
from bisect import bisect, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import av
from av.video.stream import VideoStream

from kinet.data.coded import CodedStream, HeaderBits, Irregular, Picture

# Types of NAL units (7.4.1)
SLICE, IDR_SLICE, SEQUENCE_SET, PICTURE_SET = 1, 5, 7, 8
WITHOUT_EFFECT = frozenset({6, 9, 12})  # on which frames come: supplemental information, delimiters, filler
PROFILES_WITH_CHROMA_FORMAT = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})  # 7.3.2.1.1
HEADER_BYTES = 32  # more than is read of any slice header
START_CODE = re.compile(rb"\x00\x00\x01")


@dataclass(frozen=True)
class SequenceSet:
    """What slice headers need of a sequence parameter set. ``order_bits`` 0: frames come in coding order."""

    number_bits: int
    order_bits: int
    frames_only: bool


@dataclass(frozen=True)
class PictureSet:
    """What slice headers need of a picture parameter set."""

    sequence: int
    bottom_order: bool
    redundant: bool


class PictureHeader(NamedTuple):
    """Of a picture's first slice; ``order`` and ``number`` are modulo those of its sequence parameter set."""

    idr: bool
    reference: bool
    number: int
    order: int
    sequence: SequenceSet


def read_h264(packets: Sequence[av.Packet[VideoStream]], stream: VideoStream) -> CodedStream:
    """The pictures of all ``packets`` of ``stream``, one in each.

    Raises:
        Irregular: fields, gaps, parameter sets that change, damage: whatever is more than plain frames.
    """
    headers = _Headers(stream.codec_context.extradata or b"")
    reorder_depth = stream.codec_context.reorder_depth
    pictures: list[Picture] = []
    shown: list[int] = []
    period: list[tuple[int, int]] = []  # (picture order count, place) since the last IDR picture, sorted
    start = number = order_high = order_low = 0  # the last three are those of the last reference picture
    for place, packet in enumerate(packets):
        header = headers.read(bytes(packet))
        if header.idr:
            shown += [picture for _, picture in period]
            period, start = [], place
            order_high = order_low = 0
        elif not pictures:
            raise Irregular("the stream does not begin with an IDR picture")
        if header.number != (0 if header.idr else (number + 1) % (1 << header.sequence.number_bits)):
            raise Irregular("pictures are missing")
        high = order_high + _carry(header.order, order_low, 1 << header.sequence.order_bits)
        order = high + header.order if header.sequence.order_bits else place
        later = bisect(period, (order, -1))
        if later < len(period) and period[later][0] == order:
            raise Irregular("two pictures of one place")
        if len(period) - later > reorder_depth:
            raise Irregular("the decoder does not know how far pictures are out of order")
        insort(period, (order, place))
        if header.reference:
            number, order_high, order_low = header.number, high, header.order
        pictures.append(Picture(packet, start, header.reference))
    shown += [picture for _, picture in period]
    return CodedStream(pictures, [place for place in shown if not packets[place].is_discard])


def _carry(low: int, previous: int, modulus: int) -> int:
    """The change of the high part of picture order counts, 8.2.1.1."""
    if low < previous and previous - low >= modulus // 2:
        return modulus
    if low > previous and low - previous > modulus // 2:
        return -modulus
    return 0


class _Headers:
    """Reads each packet's picture header, and the parameter sets on the way."""

    def __init__(self, extradata: bytes) -> None:
        self._sets: dict[tuple[int, int], bytes] = {}
        self._sequence_sets: dict[int, SequenceSet] = {}
        self._picture_sets: dict[int, PictureSet] = {}
        self._length_bytes = 0  # of each NAL unit's length; 0: start codes stand between them
        if extradata[:1] == b"\1":
            self._length_bytes = extradata[4] % 4 + 1 if len(extradata) > 6 else 0
            units = _avcc_units(extradata)
        else:
            units = self._units(extradata)
        for unit in units:
            self._read_set(unit)

    def read(self, data: bytes) -> PictureHeader:
        """The header of the one picture in ``data``."""
        header: PictureHeader | None = None
        for unit in self._units(data):
            kind = unit[0] & 31
            if kind in (SLICE, IDR_SLICE):
                header = self._read_slice(unit, header)
            elif kind in (SEQUENCE_SET, PICTURE_SET):
                self._read_set(unit)
            elif kind not in WITHOUT_EFFECT:
                raise Irregular(f"NAL units of type {kind}")
        if header is None:
            raise Irregular("a packet without a picture")
        return header

    def _units(self, data: bytes) -> Iterator[bytes]:
        """The NAL units of a packet. A slice's is cut to what may be its header."""
        if not self._length_bytes:
            starts = [match.end() for match in START_CODE.finditer(data)]
            ends = [start - 3 for start in starts[1:]] + [len(data)]
        else:
            starts, ends, end = [], [], 0
            while end < len(data):
                start = end + self._length_bytes
                end = start + int.from_bytes(data[end:start], "big")
                starts.append(start)
                ends.append(end)
        for start, end in zip(starts, ends, strict=True):
            if not start < end <= len(data) or data[start] & 128:
                raise Irregular("a damaged NAL unit")
            slice_data = data[start] & 31 in (SLICE, IDR_SLICE)
            yield data[start : min(end, start + HEADER_BYTES) if slice_data else end]

    def _read_slice(self, unit: bytes, first: PictureHeader | None) -> PictureHeader:
        """7.3.3, up to dec_ref_pic_marking for IDR pictures."""
        idr, reference = unit[0] & 31 == IDR_SLICE, unit[0] & 96 != 0
        bits = _payload(unit)
        first_block = bits.golomb()
        if first is not None:
            if first_block == 0 or (idr, reference) != (first.idr, first.reference):
                raise Irregular("more than one picture in a packet")
            return first
        kind = bits.golomb() % 5
        picture_set = self._picture_sets.get(bits.golomb())
        sequence = self._sequence_sets.get(picture_set.sequence) if picture_set else None
        if picture_set is None or sequence is None or first_block != 0:
            raise Irregular("a picture that lacks its parameter sets or its first slice")
        number = bits.number(sequence.number_bits)
        if not sequence.frames_only and bits.flag():
            raise Irregular("fields")
        if idr:
            bits.golomb()  # idr_pic_id
        order = 0
        if sequence.order_bits:
            order = bits.number(sequence.order_bits)
            if picture_set.bottom_order:
                order += min(0, bits.signed_golomb())
        if picture_set.redundant and bits.golomb():
            raise Irregular("redundant slices")
        if idr and (kind != 2 or not reference or bits.flag()):  # no_output_of_prior_pics_flag
            raise Irregular("an IDR picture that drops the pictures before it")
        return PictureHeader(idr, reference, number, order, sequence)

    def _read_set(self, unit: bytes) -> None:
        kind, bits = unit[0] & 31, _payload(unit)
        if kind == SEQUENCE_SET:
            profile = bits.number(24) >> 16
            identity = bits.golomb()
            known = self._sets.setdefault((kind, identity), unit.rstrip(b"\0"))
            self._sequence_sets[identity] = _sequence_set(profile, bits)
        elif kind == PICTURE_SET:
            identity = bits.golomb()
            known = self._sets.setdefault((kind, identity), unit.rstrip(b"\0"))
            self._picture_sets[identity] = _picture_set(bits)
        else:
            return
        if known != unit.rstrip(b"\0"):
            raise Irregular("parameter sets that change")


def _payload(unit: bytes) -> HeaderBits:
    """Without the NAL unit's first byte and the bytes that keep start codes out of it (7.3.1)."""
    return HeaderBits(unit[1:].replace(b"\0\0\3", b"\0\0"))


def _avcc_units(extradata: bytes) -> Iterator[bytes]:
    """The parameter sets of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.2.4.1)."""
    position = 5
    for mask in (31, 255):  # sequence parameter sets, then picture parameter sets
        count = int.from_bytes(extradata[position : position + 1], "big") & mask
        position += 1
        for _ in range(count):
            start = position + 2
            position = start + int.from_bytes(extradata[position:start], "big")
            if not start < position <= len(extradata):
                raise Irregular("damaged parameter sets")
            yield extradata[start:position]


def _sequence_set(profile: int, bits: HeaderBits) -> SequenceSet:
    """7.3.2.1.1, after seq_parameter_set_id and up to frame_mbs_only_flag."""
    if profile in PROFILES_WITH_CHROMA_FORMAT:
        if bits.golomb() == 3:
            raise Irregular("4:4:4 pictures")
        bits.golomb()  # bit depths
        bits.golomb()
        bits.flag()
        if bits.flag():
            _pass_scaling_lists(bits)
    number_bits = bits.golomb() + 4
    order_type = bits.golomb()
    if order_type == 1:
        raise Irregular("picture order counts of type 1")
    order_bits = bits.golomb() + 4 if order_type == 0 else 0
    bits.golomb()  # max_num_ref_frames
    bits.flag()  # gaps are found by the numbers
    bits.golomb()  # width and height
    bits.golomb()
    return SequenceSet(number_bits, order_bits, frames_only=bits.flag())


def _pass_scaling_lists(bits: HeaderBits) -> None:
    """7.3.2.1.1.1"""
    for size in (16,) * 6 + (64,) * 2:
        scale = 8
        for _ in range(size if bits.flag() else 0):
            scale = (scale + bits.signed_golomb()) % 256
            if scale == 0:  # the rest repeats the last one
                break


def _picture_set(bits: HeaderBits) -> PictureSet:
    """7.3.2.2, after pic_parameter_set_id."""
    sequence = bits.golomb()
    bits.flag()
    bottom_order = bits.flag()
    if bits.golomb():
        raise Irregular("slice groups")
    bits.golomb()  # reference indices
    bits.golomb()
    bits.number(3)  # weighted prediction
    for _ in range(3):
        bits.signed_golomb()  # quantisers
    bits.number(2)
    return PictureSet(sequence, bottom_order, redundant=bits.flag())
