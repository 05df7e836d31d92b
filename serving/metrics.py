"""Every Prometheus object of the service: names, labels, buckets. Label values come from closed sets only.

With several worker processes the values lie in files that all of them can read (prometheus_client's multiprocess mode,
switched on by PROMETHEUS_MULTIPROC_DIR before this module is imported), and any worker answers for all.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"

_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_WINDOWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
_SHARES = tuple(n / 10 for n in range(1, 11))
_DURATIONS_S = (0.5, 1, 2, 3, 4, 5, 10, 30, 60, 300, 600)
_LEVELS_DB = (-60, -50, -40, -35, -30, -25, -20, -15, -10, -5, 0)
_RATES_HZ = (8_000, 12_000, 22_050, 32_000, 44_100, 50_000, 96_000, 192_000)

Mode = Literal["livesum", "livemax", "livemin"]

CANCELLED = "cancelled"
"""The code of a request whose client has gone away before the answer."""

NOBODY = ""
"""Variant and version of a request that was refused before it had any."""


class BatchMetrics:
    """What one version's batcher tells of itself."""

    def __init__(self, metrics: Metrics, version: str) -> None:
        self._depth = metrics.queue_windows.labels(version)
        self._sizes = metrics.batch_windows.labels(version)
        self._reasons = {reason: metrics.batches.labels(version, reason) for reason in ("idle", "full", "waited")}

    def queued(self, windows: int) -> None:
        self._depth.set(windows)

    def released(self, windows: int, reason: str) -> None:
        self._sizes.observe(windows)
        self._reasons[reason].inc()


class Input(NamedTuple):
    """What a clip was like before anything was made of it; drift of the input shows here."""

    duration_s: float
    rate_hz: int
    level_dbfs: float
    clipped: bool


class Metrics:
    """The objects of one process, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # half as many series again that nobody reads
        self.registry = CollectorRegistry()
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=self.registry)
        self._shown: set[tuple[str, ...]] = set()
        answer = ("variant", "version")

        self.requests = self._counter(
            "requests", "Predictions asked for, by outcome: ok, or the error's code.", "transport", *answer, "code"
        )
        self.stages = self._histogram(
            "stage_seconds",
            "Time of an answered request in each stage: decode, queue, batch, inference, total.",
            _SECONDS,
            *answer,
            "stage",
        )
        self.ready = self._gauge("ready", "1 while new requests may come here, 0 while they should not.", "livemin")
        self.inflight = self._gauge("inflight", "Requests being answered.", "livesum")
        self.permits = self._gauge("permits", "Requests that may be answered at a time.", "livesum")
        self.rejects = self._counter(
            "rejects", "Requests, streams and connections refused for lack of room, by what was full.", "reason"
        )
        self.upload_bytes = self._gauge("upload_bytes", "Bytes of request bodies in memory.", "livesum")
        self.decoded_bytes = self._gauge("decoded_bytes", "Bytes of decoded audio in memory.", "livesum")

        self.keys = self._counter(
            "key_requests", "Calls by API key, and what it was told: ok, or the error's code.", "key", "result"
        )
        self.streams = self._gauge("streams", "Live streams.", "livesum", "transport")
        self.stream_ends = self._counter(
            "stream_ends", "Live streams that are over, by outcome: ok, or the error's code.", "transport", "code"
        )
        self.queue_windows = self._gauge("queue_windows", "Windows that wait for a pass.", "livesum", "version")
        self.queue_oldest = self._gauge("queue_oldest_seconds", "Age of what has waited longest.", "livemax", "version")
        self.batch_windows = self._histogram("batch_windows", "Windows of a forward pass.", _WINDOWS, "version")
        self.batches = self._counter(
            "batches", "Forward passes, by why they went: idle, full, waited.", "version", "reason"
        )

        self.route_weight = self._gauge("route_weight", "Weight of each variant.", "livemax", *answer)
        self.model_info = self._gauge(
            "model_info", "1 for each version that is loaded, and what it runs on.", "livemax", "version", "device"
        )
        self.runtime_fallback = self._gauge(
            "runtime_fallback", "1 where the runtime is auto and fell back to the CPU, else 0.", "livemax"
        )
        self.routes_current = self._gauge(
            "routes_current", "1 while the newest routes.yaml is in force, 0 while it is refused.", "livemin"
        )
        self.routes_current.set(1)
        self.load_failures = self._counter("load_failures", "Changes of routes.yaml that were refused.")

        self.emotions = self._counter("predictions", "Answers by the emotion heard.", *answer, "emotion")
        self.confidence = self._histogram("confidence", "Probability of the emotion heard.", _SHARES, *answer)
        self.margin = self._histogram(
            "margin", "Probability of the emotion heard less that of the next.", _SHARES, *answer
        )
        self.input_seconds = self._histogram("input_seconds", "Length of clips.", _DURATIONS_S)
        self.input_level = self._histogram("input_level_dbfs", "Level of clips (RMS, full scale = 0).", _LEVELS_DB)
        self.input_rate = self._histogram("input_rate_hz", "Sample rate of clips.", _RATES_HZ)
        self.input_clipped = self._counter("input_clipped", "Clips with samples at full scale.")

        self.shadow = self._counter(
            "shadow",
            "Requests for the shadow too, by result: agree, disagree, dropped, failed.",
            "version",
            "primary",
            "result",
        )
        self.feedback = self._counter(
            "feedback", "True emotions told, by whether the answer had agreed: agree, disagree.", *answer, "result"
        )

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"timbre_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, over_workers: Mode, *labels: str) -> Gauge:
        return Gauge(f"timbre_{name}", what, labels, multiprocess_mode=over_workers, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"timbre_{name}", what, labels, buckets=buckets, registry=self.registry)

    def batches_of(self, version: str) -> BatchMetrics:
        """The watcher of one version's batcher."""
        return BatchMetrics(self, version)

    def forget(self, version: str) -> None:
        """Say no more of the queue of a version that is not loaded any more."""
        for gauge in (self.queue_windows, self.queue_oldest):
            if MULTIPROCESS_DIR in os.environ:
                gauge.labels(version).set(0)  # from files that all workers share nothing can be removed
            else:
                gauge.remove(version)

    def show_routes(self, variants: Mapping[str, tuple[str, float]], versions: Iterable[str], device: str) -> None:
        """Replace what is said of routes, variant -> (version, weight), and of loaded versions; what is gone is 0."""
        shown = {("route", name, version): weight for name, (version, weight) in variants.items()}
        shown |= {("model", version, device): 1 for version in versions}
        for (what, *labels), value in (dict.fromkeys(self._shown - shown.keys(), 0.0) | shown).items():
            (self.route_weight if what == "route" else self.model_info).labels(*labels).set(value)
        self._shown = set(shown)

    def heard(self, clip: Input) -> None:
        """Count one decoded clip."""
        self.input_seconds.observe(clip.duration_s)
        self.input_level.observe(clip.level_dbfs)
        self.input_rate.observe(clip.rate_hz)
        if clip.clipped:
            self.input_clipped.inc()

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format, of the type :data:`CONTENT_TYPE`."""
        return generate_latest(self._everyone())

    def totals(self, names: Iterable[str]) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        """Samples by name and labels, added up over worker processes: what ``/experiments`` is computed from."""
        wanted = set(names)
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
        for metric in self._everyone().collect():
            for sample in metric.samples:
                if sample.name in wanted:
                    found[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
        return found

    def _everyone(self) -> CollectorRegistry:
        if MULTIPROCESS_DIR not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry


__all__ = ["CANCELLED", "CONTENT_TYPE", "MULTIPROCESS_DIR", "NOBODY", "BatchMetrics", "Input", "Metrics"]
