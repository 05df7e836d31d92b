from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Event
from typing import cast

import pytest

from serving.audio import Limits
from serving.errors import DeadlineExceeded, NoSpeech, Overloaded, UnsupportedAudio
from serving.feedback import Feedback, Seen
from serving.isolated import most_decoders
from serving.metrics import Metrics
from serving.parts import Parts
from serving.pipeline import Ask, Pipeline, Upload
from serving.registry import Registry
from serving.room import Room, Take
from serving.settings import Settings
from serving.tracing import Tracing
from tests.hostile import sounds
from tests.service import until
from tests.sounds import encode, encode_av, voice


def without_models(metrics: Metrics, *, permits: int, timeout_s: float) -> Pipeline:
    return Pipeline(
        cast("Registry", None),
        Limits(),
        metrics,
        Feedback("", metrics, Seen(None)),
        permits=permits,
        timeout_s=timeout_s,
        decoders=1,
        decoded=Room(1, metrics.decoded_bytes, what="decoded audio", reason="decoded"),
        tracing=Tracing.to(""),
    )


def test_a_body_counts_for_as_long_as_a_decoder_has_it() -> None:
    """The request whose time is over has left before it."""
    metrics = Metrics()
    pipeline = without_models(metrics, permits=1, timeout_s=0.1)
    uploads = Room(100, metrics.upload_bytes, what="requests", reason="uploads")
    may_end, ended = Event(), Event()

    def decode(take: Take) -> None:
        take(30)
        may_end.wait(20)
        ended.set()

    def counted() -> tuple[float | None, float | None]:
        first, second = (metrics.registry.get_sample_value(f"timbre_{name}_bytes") for name in ("upload", "decoded"))
        return first, second

    async def ask() -> None:
        with uploads.holding() as body, pipeline.holding() as held:
            body(60)
            with pytest.raises(DeadlineExceeded):
                await pipeline.aside(decode, held, body)
        assert counted() == (60, 30)
        may_end.set()

    asyncio.run(ask())
    assert ended.wait(20)
    assert until(lambda: counted() == (0, 0))


def test_a_refusal_is_counted_by_what_was_full_even_where_the_last_permit_is_taken_too() -> None:
    metrics = Metrics()
    pipeline = without_models(metrics, permits=0, timeout_s=1)
    assert pipeline.full
    for reason in ("queue", "uploads", "uploads"):
        pipeline.refused(Overloaded("No room.", reason=reason), "http")
    pipeline.refused(pipeline.overloaded(), "http")
    pipeline.refused(NoSpeech("Silence."), "http")

    def rejects(reason: str) -> float | None:
        return metrics.registry.get_sample_value("timbre_rejects_total", {"reason": reason})

    assert (rejects("queue"), rejects("uploads"), rejects("permits")) == (1, 2, 1)
    assert sum(sample.value for family in metrics.rejects.collect() for sample in family.samples) == 4


def test_refused_recordings_keep_nobody_out_however_long_their_refusals_live(exported: Path) -> None:
    """As those of several clips in one request do until the last of them is answered."""
    slow = encode_av(voice(1.0, 7_350), 7_350, "ipod", "aac")

    def ask(data: bytes) -> Ask:
        return Ask(Upload(data, None), "http")

    async def main() -> None:
        pipeline = Parts.build(Settings(models=exported)).pipeline
        kept = []
        for _ in range(most_decoders() + 1):
            with pytest.raises(UnsupportedAudio, match="7350 Hz") as caught:
                await pipeline.predict(ask(slow))
            kept.append(caught)
        for good in (sounds()["m4a"], encode(voice(1.0, 48_000), 48_000)):
            assert (await pipeline.predict(ask(good))).prediction.emotion
        await pipeline.close()

    asyncio.run(main())
