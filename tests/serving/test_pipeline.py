from __future__ import annotations

from typing import cast

from serving.audio import Limits
from serving.errors import NoSpeech, Overloaded
from serving.feedback import Feedback, Seen
from serving.metrics import Metrics
from serving.pipeline import Pipeline
from serving.registry import Registry
from serving.tracing import Tracing
from serving.uploads import Room


def test_a_refusal_is_counted_by_what_was_full_even_where_the_last_permit_is_taken_too() -> None:
    metrics = Metrics()
    pipeline = Pipeline(
        cast("Registry", None),
        Limits(),
        metrics,
        Feedback("", metrics, Seen(None)),
        permits=0,
        timeout_s=1,
        decoders=1,
        decoded=Room(1, metrics.decoded_bytes, what="decoded audio", reason="decoded"),
        tracing=Tracing.to(""),
    )
    assert pipeline.full
    for reason in ("queue", "uploads", "uploads"):
        pipeline.refused(Overloaded("No room.", reason=reason), "http")
    pipeline.refused(pipeline.overloaded(), "http")
    pipeline.refused(NoSpeech("Silence."), "http")

    def rejects(reason: str) -> float | None:
        return metrics.registry.get_sample_value("timbre_rejects_total", {"reason": reason})

    assert (rejects("queue"), rejects("uploads"), rejects("permits")) == (1, 2, 1)
    assert sum(sample.value for family in metrics.rejects.collect() for sample in family.samples) == 4
