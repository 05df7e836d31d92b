"""Every Prometheus object of the service: names, labels, buckets. Label values come from closed sets only."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

_STAGE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The objects of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "timbre_requests",
            "Predictions asked for, by transport and outcome: ok, or the error's code.",
            ["transport", "code"],
            registry=self.registry,
        )
        self.stages = Histogram(
            "timbre_stage_seconds",
            "Time that an answered request spent in each stage.",
            ["stage"],
            buckets=_STAGE_BUCKETS_S,
            registry=self.registry,
        )

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format, of the type :data:`CONTENT_TYPE`."""
        return generate_latest(self.registry)


__all__ = ["CONTENT_TYPE", "Metrics"]
