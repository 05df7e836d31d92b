"""A live stream in this process, with a detector that is told what to say; the rest is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import live
from serving.errors import Overloaded
from serving.live import Listen
from serving.messages import ErrorMessage, Measurement, Message, SessionMessage, UtteranceEnd, UtteranceStart
from serving.parts import Parts
from serving.pipeline import Answer, Ask
from serving.settings import Settings

RATE = 16_000
FRAME = bytes(2 * RATE // 10)


class Sure:
    """Hears speech in whatever comes, so quiet that the real detector would not."""

    chunk_s = 0.1

    def __init__(self, _: int) -> None: ...

    def hear(self, samples: Any) -> Any:
        return np.ones(round(len(samples) / (self.chunk_s * RATE)), np.float32)


@pytest.fixture(scope="module")
def parts(exported: Path) -> Iterator[Parts]:
    made = Parts.build(Settings(models=exported))
    yield made
    asyncio.run(made.pipeline.close())


def messages_of(parts: Parts, frames: list[bytes]) -> list[Message]:
    told: list[Message] = []

    async def asked() -> Listen:
        return Listen("websocket", RATE)

    async def coming() -> AsyncIterator[bytes]:
        for frame in frames:
            yield frame

    async def send(message: Message) -> None:
        told.append(message)

    asyncio.run(parts.live.converse("websocket", asked, coming(), send, asyncio.Event()))
    return told


def test_every_hop_of_an_utterance_is_measured_however_quiet(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The utterance's own answer is that of /predict for its samples: a refusal where all of it is silent."""
    monkeypatch.setattr(live, "Listener", Sure)
    session, start, *measured, end = messages_of(parts, [FRAME] * 64)
    assert isinstance(session, SessionMessage)
    assert isinstance(start, UtteranceStart)
    assert len(measured) == int(6.4 / session.hop_s) == 4
    assert all(isinstance(message, Measurement) and message.emotion for message in measured)
    times = [start.start_s, *(message.end_s for message in measured if isinstance(message, Measurement))]
    assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx([session.hop_s] * 4)
    assert isinstance(end, ErrorMessage)
    assert (end.utterance, end.error.code) == (1, "no_speech")


def test_an_utterance_is_answered_though_its_measurements_are_refused(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "Listener", Sure)
    predict = parts.pipeline.predict

    async def refusing(ask: Ask) -> Answer:
        if ask.provisional:
            raise Overloaded("Too many.", reason="permits", retry_after_s=1)
        return await predict(replace(ask, provisional=True))  # which is heard however quiet it is

    monkeypatch.setattr(parts.pipeline, "predict", refusing)
    _, start, *refused, end = messages_of(parts, [FRAME] * 64)
    assert isinstance(start, UtteranceStart)
    assert [(told.utterance, told.error.code) for told in refused if isinstance(told, ErrorMessage)] == [
        (1, "overloaded")
    ] * 4
    assert isinstance(end, UtteranceEnd)
