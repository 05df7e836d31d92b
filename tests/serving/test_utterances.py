"""Cutting a stream, with a detector that is told what to say: exact to the sample, without any model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.detector import Listener
from serving.utterances import Cut, Cutter, Ended, Event, Measured, Started

RATE = 16_000
CHUNK = 512
HOP, WINDOW = 24_000, 48_000


class Scripted:
    """Says speech where the samples are not zero."""

    chunk_s = CHUNK / RATE

    def __init__(self) -> None:
        self.left = np.empty(0, np.float32)

    def hear(self, samples: Any) -> Any:
        self.left = np.concatenate([self.left, samples])
        whole = len(self.left) // CHUNK
        chunks, self.left = self.left[: whole * CHUNK].reshape(whole, CHUNK), self.left[whole * CHUNK :]
        return (np.abs(chunks).max(axis=1, initial=0) > 0).astype(np.float32)


def sound(*parts: tuple[float, bool]) -> np.ndarray:
    """(seconds, speech) one after the other; every sample of speech another, so that places can be told."""
    whole = np.concatenate([np.full(round(seconds * RATE), speech) for seconds, speech in parts])
    return np.where(whole, np.arange(len(whole)) % 30_000 + 1, 0).astype("<i2")


def cut(samples: np.ndarray, frame: int = 1600, longest_s: float = 30.0) -> list[Event]:
    cutter = Cutter(cast("Listener", Scripted()), Cut(RATE, HOP, WINDOW, round(longest_s * RATE)))
    events: list[Event] = []
    for start in range(0, len(samples), frame):
        events += cutter.feed(samples[start : start + frame].tobytes())
        assert len(cutter._held) <= 2 * ((longest_s + 2) * RATE + frame)
    return events + cutter.finish()


def ends(events: Sequence[Event]) -> list[Ended]:
    return [event for event in events if isinstance(event, Ended)]


def test_silence_yields_nothing() -> None:
    assert cut(sound((20, False))) == []


def test_a_click_is_no_utterance() -> None:
    assert cut(sound((2, False), (0.03, True), (2, False))) == []


def test_an_utterance_has_its_edges_and_its_samples() -> None:
    samples = sound((2, False), (2, True), (2, False))
    events = cut(samples)
    assert [type(event) for event in events] == [Started, Measured, Ended]
    (end,) = ends(events)
    assert end.start == pytest.approx(1.8 * RATE, abs=CHUNK)
    assert end.end == pytest.approx(4.2 * RATE, abs=CHUNK)
    assert np.array_equal(end.samples, samples[end.start : end.end] / np.float32(32_768))


def test_a_short_pause_does_not_end_it_and_a_long_one_does() -> None:
    assert len(ends(cut(sound((1, False), (1, True), (0.4, False), (1, True), (1, False))))) == 1
    assert len(ends(cut(sound((1, False), (1, True), (0.8, False), (1, True), (1, False))))) == 2


def test_every_hop_is_measured_over_the_newest_window() -> None:
    samples = sound((1, False), (6.5, True), (1, False))
    events = cut(samples)
    start = next(event.start for event in events if isinstance(event, Started))
    measured = [event for event in events if isinstance(event, Measured)]
    assert [event.end - start for event in measured] == [HOP * (n + 1) for n in range(4)]
    for event in measured:
        assert event.start == max(start, event.end - WINDOW)
        assert np.array_equal(event.samples, samples[event.start : event.end] / np.float32(32_768))


def test_what_does_not_end_is_ended_and_goes_on_without_a_gap() -> None:
    told = ends(cut(sound((1, False), (25, True), (1, False)), longest_s=10))
    assert [event.utterance for event in told] == [1, 2, 3]
    assert told[0].end - told[0].start == 10 * RATE
    assert [before.end for before in told[:-1]] == [after.start for after in told[1:]]


def test_the_end_of_the_stream_ends_it() -> None:
    (end,) = ends(cut(sound((1, False), (1, True))))
    assert end.end == 2 * RATE


@settings(deadline=None)  # how long it takes is the machine's business
@given(st.integers(min_value=1, max_value=RATE))
def test_frames_of_any_size_are_cut_the_same(frame: int) -> None:
    """But for measurements that come at the end of a frame where the utterance is about to be over."""
    samples = sound((1, False), (2, True), (1, False), (0.7, True), (1, False))
    kept = [event for event in cut(samples, max(frame, 50)) if not isinstance(event, Measured)]
    expected = [event for event in cut(samples) if not isinstance(event, Measured)]
    assert [(type(event), event.start) for event in kept] == [(type(event), event.start) for event in expected]
    assert [event.end for event in ends(kept)] == [event.end for event in ends(expected)]
