"""The pictures of an MPEG-4 Part 2 stream (XviD, DivX) from its VOP headers. Clauses are of ISO/IEC 14496-2.

In avi files a packet may hold no picture, or a reference picture and a B-picture together ('packed'), made up for
by an empty packet later on: packets and frames agree neither in number nor in time. Here packets are taken apart
as FFmpeg's decoder takes them apart, and each picture gets a packet of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import av
from av.bitstream import BitStreamFilterContext
from av.video.stream import VideoStream

from kinet.data.coded import CodedStream, HeaderBits, Irregular, Picture

START_CODE = re.compile(rb"\x00\x00\x01(?=(.))", re.DOTALL)
GROUP, VOP = 0xB3, 0xB6
VOP_START = b"\x00\x00\x01\xb6"
LAYERS = range(0x20, 0x30)
SIMPLE, ADVANCED_SIMPLE = 1, 17  # kinds of layers that need not say that nothing comes out of order
CONFIGURATION = frozenset({*range(0x30), 0xB0, 0xB2, 0xB5})  # from the video object to user data
INTRA, PREDICTED, BETWEEN = 0, 1, 2  # vop_coding_type: I, P and B
PACKED = re.compile(rb"\x00\x00\x01\xb2DivX\d+(?:Build|b)\d+p")
WRITTEN_BY_DIVX_OR_XVID = re.compile(rb"\x00\x00\x01\xb2(?:DivX|XviD)")
PLACEHOLDER = b"\x7f"  # a whole packet in such files
HEADER_BYTES = 24  # more than is read of a VOP's header
SHORTEST_KEPT = 9  # bytes: FFmpeg loses a second picture of a packet that is shorter


class Layer(NamedTuple):
    """What VOP headers need of the video object layer: ticks a second, and whether frames come out of order."""

    resolution: int
    reorders: bool
    tick_bits: int


class Vop(NamedTuple):
    """A picture as it stands in a packet, together with the headers before it; not ``coded``: it gives no frame.

    ``seconds`` is the group's time if one begins here, ``elapsed`` the whole seconds since the last reference.
    """

    data: bytes
    kind: int
    coded: bool
    seconds: int | None
    elapsed: int
    ticks: int
    discarded: bool = False
    """By an edit list: it is decoded and not shown."""


def read_mpeg4(packets: Sequence[av.Packet[VideoStream]], stream: VideoStream) -> CodedStream:
    """The pictures of all ``packets`` of ``stream``.

    Raises:
        Irregular: fields, sprites, headers that change, pictures that a decoder loses, damage.
    """
    first, extradata = bytes(packets[0]), stream.codec_context.extradata or b""
    configuration = _configuration(first, _codes(first)) or _configuration(extradata, _codes(extradata))
    layer = _read_layer(configuration)
    packed = PACKED.search(extradata + first) is not None
    vops = list(_decoded(packets, layer, configuration, packed))
    clock = _Clock(layer.resolution)
    starts: list[int] = []
    shown: list[int] = []
    references: list[int] = []
    for number, vop in enumerate(vops):
        if layer.reorders:
            clock.pass_on(vop)
        if not vop.coded:
            starts.append(number)
        elif vop.kind == BETWEEN:
            if len(references) < 2 or not layer.reorders or not clock.orders_last():
                raise Irregular("a B-picture out of place")
            starts.append(starts[references[-2]])
            shown.append(number)
        else:
            if not references and vop.kind != INTRA:
                raise Irregular("the stream does not begin with an I-picture")
            starts.append(number if vop.kind == INTRA else starts[references[-1]])
            shown += references[-1:] if layer.reorders else [number]
            references.append(number)
    if layer.reorders:
        shown += references[-1:]
    if packed:  # damage in a packet's first picture can make FFmpeg lose its second: no packet may be passed over
        starts = [0] * len(vops)
    pictures = [
        Picture(packet, start, reference=vop.kind != BETWEEN)
        for packet, start, vop in zip(_single_packets(packets, stream, vops, packed), starts, vops, strict=True)
    ]
    return CodedStream(pictures, [number for number in shown if not vops[number].discarded])


def _single_packets(
    packets: Sequence[av.Packet[VideoStream]], stream: VideoStream, vops: list[Vop], packed: bool
) -> list[av.Packet[Any]]:
    """A packet for each of ``vops``, by FFmpeg's own filter where the stream is packed."""
    if not packed and len(packets) == len(vops):
        return list(packets)
    singles: list[av.Packet[Any]] = list(packets)
    if packed:
        unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
        singles = [single for packet in packets for single in unpack.filter(packet)]
    singles = [packet for packet in singles if packet.size > len(PLACEHOLDER)]
    if [packet.size for packet in singles] != [len(vop.data) for vop in vops]:
        raise Irregular("a packed stream that FFmpeg unpacks otherwise")
    return singles


def _decoded(
    packets: Sequence[av.Packet[VideoStream]], layer: Layer, configuration: bytes, packed: bool
) -> Iterator[Vop]:
    """The pictures that FFmpeg's decoder takes up, in order.

    In a packed stream it keeps a packet's second picture and decodes it in place of the next packet, of which it
    keeps the picture in turn if that is no P-picture.
    """
    kept: Vop | None = None
    for packet in packets:
        data = bytes(packet)
        if data == PLACEHOLDER and WRITTEN_BY_DIVX_OR_XVID.search(configuration):
            vops = []
        else:
            vops = _read_vops(data, layer, configuration)
            if not vops:
                raise Irregular("a packet without a picture")
        if kept is None and vops:
            kept = vops.pop(0)
        if kept is not None:
            yield kept._replace(discarded=True) if packet.is_discard else kept
        if not vops:
            kept = None
            continue
        second = vops.pop(0)
        if vops or not (packed and kept and kept.coded):
            raise Irregular("a packet with pictures that the decoder loses")
        if second.kind == PREDICTED and not second.coded:
            kept = None
        elif second.kind == BETWEEN and len(second.data) >= SHORTEST_KEPT:
            kept = second
        else:
            raise Irregular("a packet with pictures that the decoder loses")


def _read_vops(data: bytes, layer: Layer, configuration: bytes) -> list[Vop]:
    """The pictures of a packet, each with the group's header before it."""
    if data.startswith(VOP_START) and START_CODE.search(data, len(VOP_START)) is None:  # as nearly all are
        kind, coded, elapsed, ticks = _read_vop(data[4 : 4 + HEADER_BYTES], layer.tick_bits)
        return [Vop(data, kind, coded, None, elapsed, ticks)]
    if not data.startswith(b"\0\0\1"):
        raise Irregular("a packet that begins amid a picture")
    codes = _codes(data)
    if _configuration(data, codes) not in (b"", configuration):
        raise Irregular("headers that change")
    vops = []
    begin = 0
    seconds = None
    for place, (position, code) in enumerate(codes):
        if code == GROUP:
            seconds = _read_group(data[position + 4 : position + 8])
        elif code == VOP:
            end = codes[place + 1][0] if place + 1 < len(codes) else len(data)
            header = data[position + 4 : min(end, position + 4 + HEADER_BYTES)]
            kind, coded, elapsed, ticks = _read_vop(header, layer.tick_bits)
            vops.append(Vop(data[begin:end], kind, coded, seconds, elapsed, ticks))
            begin, seconds = end, None
        elif code not in CONFIGURATION or begin > 0:
            raise Irregular(f"start code {code:#x}")
    if 0 < begin < len(data):
        raise Irregular("a group's header behind the last picture")
    return vops


def _read_vop(header: bytes, tick_bits: int) -> tuple[int, bool, int, int]:
    """6.2.5, after the start code: the kind, whether it is coded, elapsed seconds, ticks.

    Read as one number, for this is done for each picture of a file.
    """
    if not header:
        raise Irregular("a header is cut short")
    number = int.from_bytes(header, "big")
    left = 8 * len(header) - 2  # bits
    kind = number >> left
    elapsed = left - (~number & (1 << left) - 1).bit_length()  # as many ones
    left -= elapsed + tick_bits + 4  # a zero, a marker, the ticks, a marker, vop_coded
    if kind > BETWEEN or left < 0:
        raise Irregular("a sprite, or a header that is cut short")
    number >>= left
    markers = 2 | 4 << tick_bits
    if number & markers != markers:
        raise Irregular("a damaged picture header")
    return kind, number & 1 == 1, elapsed, number >> 2 & (1 << tick_bits) - 1


class _Clock:
    """The times by which a decoder knows B-pictures that are out of place (6.3.5, and FFmpeg's reading of it)."""

    def __init__(self, resolution: int) -> None:
        self._resolution = resolution
        self._seconds = self._seconds_before = 0  # of the last two reference pictures
        self._time = self._time_before = 0  # in ticks
        self._between = 0  # of the last B-picture

    def pass_on(self, vop: Vop) -> None:
        if vop.seconds is not None:
            self._seconds = vop.seconds
        if vop.kind == BETWEEN:
            self._between = (self._seconds_before + vop.elapsed) * self._resolution + vop.ticks
        else:
            self._seconds_before = self._seconds
            self._seconds += vop.elapsed
            self._time_before, self._time = self._time, self._seconds * self._resolution + vop.ticks

    def orders_last(self) -> bool:
        """Whether the last B-picture lies between the last two reference pictures, which FFmpeg tells by 16 bits."""
        return self._time_before < self._between < self._time < self._time_before + (1 << 16)


def _codes(data: bytes) -> list[tuple[int, int]]:
    """The start codes' positions and values."""
    return [(match.start(), match[1][0]) for match in START_CODE.finditer(data)]


def _configuration(data: bytes, codes: list[tuple[int, int]]) -> bytes:
    """The headers before the first group or picture."""
    return next((data[:position] for position, code in codes if code in (GROUP, VOP)), data)


def _read_layer(configuration: bytes) -> Layer:
    """6.2.3, from the video object layer's start code up to sprite_enable."""
    starts = [position + 4 for position, code in _codes(configuration) if code in LAYERS]
    if len(starts) != 1:
        raise Irregular("no video object layer, or several")
    bits = HeaderBits(configuration[starts[0] :])
    bits.flag()
    kind = bits.number(8)
    version = bits.number(7) >> 3 if bits.flag() else 1
    if bits.number(4) == 15:
        bits.number(16)  # pixel aspect ratio
    low_delay = kind in (SIMPLE, ADVANCED_SIMPLE)
    if bits.flag():
        bits.number(2)
        low_delay = bits.flag()
        bits.number(79 if bits.flag() else 0)  # buffer sizes
    rectangular = bits.number(2) == 0
    bits.flag()
    resolution = bits.number(16)
    bits.flag()
    bits.number(_tick_bits(resolution) if bits.flag() else 0)  # fixed rate
    bits.number(29)  # width and height
    interlaced = bits.flag()
    bits.flag()
    sprites = bits.number(1 if version == 1 else 2)
    if not rectangular or interlaced or sprites or not resolution:
        raise Irregular("fields, sprites or shapes")
    return Layer(resolution, reorders=not low_delay, tick_bits=_tick_bits(resolution))


def _tick_bits(resolution: int) -> int:
    return max(1, (resolution - 1).bit_length())


def _read_group(header: bytes) -> int:
    """The time in seconds of 6.2.4."""
    bits = HeaderBits(header)
    hours, minutes, _, seconds = bits.number(5), bits.number(6), bits.flag(), bits.number(6)
    return (hours * 60 + minutes) * 60 + seconds
