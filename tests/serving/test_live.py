"""A live stream in this process, with a detector that is told what to say; the rest is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import live
from serving.errors import Overloaded, VersionRetired
from serving.live import Listen
from serving.messages import ErrorMessage, Measurement, Message, SessionMessage, UtteranceEnd, UtteranceStart
from serving.parts import Parts
from serving.pipeline import Answer, Ask
from serving.settings import Settings
from tests.models import copy_versions
from tests.service import until

RATE = 16_000
FRAME = bytes(2 * RATE // 10)


class Sure:
    """Hears speech in whatever comes, so quiet that the real detector would not."""

    chunk_s = 0.1

    def __init__(self, _: int) -> None: ...

    def hear(self, samples: Any) -> Any:
        return np.ones(round(len(samples) / (self.chunk_s * RATE)), np.float32)


@pytest.fixture
def parts(exported: Path) -> Iterator[Parts]:
    made = Parts.build(Settings(models=exported))
    yield made
    asyncio.run(made.pipeline.close())


async def converse(parts: Parts, frames: AsyncIterator[bytes], told: list[Message]) -> None:
    async def asked() -> Listen:
        return Listen("websocket", RATE)

    async def send(message: Message) -> None:
        told.append(message)

    await parts.live.converse("websocket", asked, frames, send, asyncio.Event())


def messages_of(parts: Parts, frames: list[bytes]) -> list[Message]:
    told: list[Message] = []

    async def coming() -> AsyncIterator[bytes]:
        for frame in frames:
            yield frame

    asyncio.run(converse(parts, coming(), told))
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


BOTH = 'default: a\nvariants: {a: {version: "1", weight: %d}, b: {version: "2", weight: %d}}'


@pytest.mark.parametrize(
    ("after", "goes"),
    [
        (BOTH % (0, 1), False),
        ('default: a\nvariants: {a: {version: "2", weight: 1}}', True),
    ],
    ids=["weights move", "its version goes"],
)
def test_a_stream_keeps_who_answers_it_whatever_becomes_of_the_routes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str, goes: bool
) -> None:
    """It was told at its start which emotions it will hear of; one without its version is told to come again."""
    monkeypatch.setattr(live, "Listener", Sure)
    models, told = copy_versions(tmp_path, "2"), list[Message]()
    routes = models / "routes.yaml"
    routes.write_text(BOTH % (1, 0))
    noise = (3000 * np.random.default_rng(0).standard_normal(RATE // 10)).astype("<i2").tobytes()

    async def main() -> None:
        parts = Parts.build(Settings(models=models))
        old = parts.registry.fleet
        following = asyncio.create_task(parts.registry.watch(0.05))

        async def coming() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield noise
            routes.write_text(after)
            assert await asyncio.to_thread(until, lambda: parts.registry.fleet is not old)
            for _ in range(20):
                yield noise

        with pytest.raises(VersionRetired, match=r"Version 1, .* Connect again") if goes else nullcontext():
            await converse(parts, coming(), told)
        following.cancel()
        await parts.pipeline.close()

    asyncio.run(main())
    session, end = told[0], told[-1]
    assert isinstance(session, SessionMessage)
    assert isinstance(end, UtteranceEnd)
    assert session.model_version == end.prediction.model_version == "1"
    assert end.variant == "a"
    assert end.end_s == pytest.approx(2.0 if goes else 4.0)
