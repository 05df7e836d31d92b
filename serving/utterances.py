"""A stream of samples cut into utterances: where somebody begins to speak, every hop while they do, where they end.

Knows no model but the detector of speech, and no clock but the samples: a stream at twice the speed is cut the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.audio import Samples, pcm16
from serving.detector import Listener

Pcm = npt.NDArray[np.int16]

# As in Silero's own iterator: it takes more to begin than to go on.
_SPEAKS, _STILL_SPEAKS = 0.5, 0.35
_BEGIN_S = 0.09  # so long without a break begins an utterance: a click does not
_PAUSE_S = 0.6  # so long without speech ends it: longer than the pauses between words
_PAD_S = 0.2  # before the first speech and behind the last: soft consonants are at either end


@dataclass(frozen=True)
class Cut:
    """Where speech may be cut, in samples of the stream.

    Attributes:
        hop, window: every so often, the newest so much.
        longest: an utterance that goes on after so much is ended there, and another begins.
    """

    rate_hz: int
    hop: int
    window: int
    longest: int


@dataclass(frozen=True)
class Started:
    """Somebody speaks; counted from 1, first sample within the stream."""

    utterance: int
    start: int


@dataclass(frozen=True)
class Measured:
    """Another hop of it has come; ``samples`` are its newest window, which begins at ``start``."""

    utterance: int
    start: int
    end: int
    samples: Samples


@dataclass(frozen=True)
class Ended:
    """It is over; ``samples`` are all of it."""

    utterance: int
    start: int
    end: int
    samples: Samples


Event = Started | Measured | Ended


class Cutter:
    """Takes a stream's frames and tells what became of its utterances.

    Holds no more than the longest utterance and one frame.
    """

    def __init__(self, listener: Listener, cut: Cut) -> None:
        self._listener, self._cut = listener, cut
        self._pad = round(_PAD_S * cut.rate_hz)
        self._held = bytearray()
        self._first = 0  # the place in the stream of the first sample held
        self._received = 0
        self._chunks = 0  # judged so far
        self._spoken = 0  # chunks of speech without a break
        self._free = 0  # samples before this one belong to an utterance that is over
        self._utterance = 0
        self._start: int | None = None  # of the current utterance
        self._last_speech = 0
        self._hops = 0

    @property
    def speaking(self) -> bool:
        """Whether an utterance is open."""
        return self._start is not None

    def feed(self, frame: bytes) -> list[Event]:
        """Take 16-bit little-endian samples and tell what they brought, in order."""
        self._held += frame
        self._received += len(frame) // 2
        events: list[Event] = []
        for probability in self._listener.hear(pcm16(frame)):
            self._chunks += 1
            end = round(self._chunks * self._listener.chunk_s * self._cut.rate_hz)
            events += self._go_on(end, float(probability)) if self.speaking else self._maybe_begin(end, probability)
        events += self._hops_until(self._received)
        self._let_go()
        return events

    def finish(self) -> list[Event]:
        """No more samples come: the current utterance ends with what there is."""
        return self._end(min(self._received, self._last_speech + self._pad)) if self.speaking else []

    def _maybe_begin(self, end: int, probability: float) -> list[Event]:
        self._spoken = self._spoken + 1 if probability >= _SPEAKS else 0
        spoken_s = self._spoken * self._listener.chunk_s
        if spoken_s < _BEGIN_S:
            return []
        start = end - round((spoken_s + _PAD_S) * self._cut.rate_hz)
        return self._begin(max(start, self._free, 0), end)

    def _begin(self, start: int, spoken_until: int) -> list[Event]:
        self._utterance += 1
        self._start, self._last_speech, self._hops = start, spoken_until, 0
        return [Started(self._utterance, start)]

    def _go_on(self, end: int, probability: float) -> list[Event]:
        if probability >= _STILL_SPEAKS:
            self._last_speech = end
        elif end - self._last_speech >= _PAUSE_S * self._cut.rate_hz:
            return self._end(self._last_speech + self._pad)
        start = self._start or 0
        if end - start < self._cut.longest:
            return []
        cut = start + self._cut.longest
        return self._end(cut) + self._begin(cut, self._last_speech)

    def _end(self, end: int) -> list[Event]:
        events = self._hops_until(end)
        if self._start is not None:
            events.append(Ended(self._utterance, self._start, end, self._samples(self._start, end)))
        self._start, self._spoken, self._free = None, 0, end
        return events

    def _hops_until(self, end: int) -> list[Event]:
        """A measurement for each hop of the current utterance that is complete before ``end``."""
        events: list[Event] = []
        while self._start is not None and (hop_end := self._start + (self._hops + 1) * self._cut.hop) <= end:
            self._hops += 1
            start = max(self._start, hop_end - self._cut.window)
            events.append(Measured(self._utterance, start, hop_end, self._samples(start, hop_end)))
        return events

    def _samples(self, start: int, end: int) -> Samples:
        return pcm16(bytes(self._held[2 * (start - self._first) : 2 * (end - self._first)]))

    def _let_go(self) -> None:
        """Forget what no utterance can want any more: all but the current one, or what may come before the next."""
        lead = round((_PAUSE_S + _PAD_S + _BEGIN_S) * self._cut.rate_hz)
        keep = self._received - lead if self._start is None else self._start
        if keep > self._first:
            del self._held[: 2 * (keep - self._first)]
            self._first = keep
