"""Decoding some frames of a stream and as little else as they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import av
from av.video.codeccontext import VideoCodecContext

from kinet.data.coded import CodedStream, Irregular


class SelectiveDecoder:
    """Gives frames by number, from one decoder that is fed reference pictures and the pictures asked for.

    It goes on from where it stopped, or starts anew at the last picture that allows it. What comes out is checked
    against what ``coded`` foretells: a difference, or an error of the decoder, ends its use.
    """

    def __init__(self, coded: CodedStream, context: VideoCodecContext) -> None:
        self._pictures = coded.pictures
        self._shown = coded.shown
        self._ranks = {picture: rank for rank, picture in enumerate(coded.shown)}
        self._context = context
        self._context.options = {"err_detect": "explode"}  # do not mend damage in silence
        self._primed = False
        self._begin = self._next = 0  # the picture fed first, and the one to be fed next
        self._running = False
        self._awaited: set[int] = set()  # numbers of the frames that were fed and have not come out

    def __len__(self) -> int:
        return len(self._shown)

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames of ``numbers``, which rise, with their numbers, in about their order.

        Raises:
            Irregular, av.FFmpegError: the stream is not what its headers say, or damaged.
        """
        missing = set(numbers)
        last = max(numbers, default=0)
        for picture in sorted(self._shown[number] for number in numbers):
            if self._ranks[picture] in missing and not self._leads_to(picture):
                if missing & self._awaited:
                    yield from self._drain(missing)
                self._start(self._pictures[picture].start)
            while self._ranks[picture] in missing and self._next <= picture:
                yield from self._feed(missing, last)
        while missing:
            more = self._next < len(self._pictures)
            yield from self._feed(missing, last) if more else self._drain(missing)

    def _leads_to(self, picture: int) -> bool:
        """Whether going on gives this picture, and no start on the way saves decoding."""
        if not self._running or self._pictures[picture].start < self._begin:
            return False
        if picture < self._next:
            return self._ranks[picture] in self._awaited
        return self._pictures[picture].start <= self._next

    def _start(self, picture: int) -> None:
        if not self._primed and picture > 0:  # the stream's first packet may hold what all others need
            self._context.decode(self._pictures[0].packet)
        if self._primed or picture > 0:
            self._context.flush_buffers()
        self._primed = self._running = True
        self._awaited.clear()
        self._begin = self._next = picture

    def _feed(self, missing: set[int], last: int) -> list[tuple[int, av.VideoFrame]]:
        """Feed the next picture unless nothing needs it. Those after ``last`` are left for a read that goes on."""
        picture = self._pictures[self._next]
        number = self._ranks.get(self._next)
        self._next += 1
        if not picture.reference and (number is None or (number < last and number not in missing)):
            return []
        if number is not None:
            self._awaited.add(number)
        return self._taken(missing, self._context.decode(picture.packet))

    def _drain(self, missing: set[int]) -> list[tuple[int, av.VideoFrame]]:
        self._running = False
        frames = self._taken(missing, self._context.decode(None))
        if self._awaited:
            raise Irregular("frames that do not come")
        return frames

    def _taken(self, missing: set[int], frames: Sequence[av.VideoFrame]) -> list[tuple[int, av.VideoFrame]]:
        """Those of ``frames`` that are ``missing``, with their numbers; all must be the least of those awaited."""
        taken = []
        for frame in frames:
            number = None if frame.pts is None else self._ranks.get(frame.pts)
            if number is None or frame.is_corrupt or number != min(self._awaited, default=None):
                raise Irregular("frames that come out of order")
            self._awaited.remove(number)
            if number in missing:
                missing.remove(number)
                taken.append((number, frame))
        return taken
