"""What a service is put together from, made once at start and handed to every transport."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving.errors import RuntimeUnavailable
from serving.feedback import Feedback, Seen
from serving.keys import Guard, Scope
from serving.live import Bounds, Live
from serving.metrics import Metrics
from serving.pipeline import Pipeline
from serving.quota import cores_of_each
from serving.registry import Registry
from serving.room import Room
from serving.runtime import Runtime, choose_runtime, fall_back
from serving.settings import Settings
from serving.tracing import Tracing

# More threads than cores, so that a long recording being decoded does not stand before a short one.
_DECODERS_PER_CORE = 4


@dataclass(frozen=True)
class Parts:
    """The loaded and warmed-up service without any transport."""

    settings: Settings
    metrics: Metrics
    registry: Registry
    feedback: Feedback
    seen: Seen
    uploads: Room
    pipeline: Pipeline
    live: Live
    guard: Guard

    @staticmethod
    def build(settings: Settings) -> Parts:
        """Load and warm up the routed versions and put the request path together.

        Raises:
            ArtifactError: there is no version, or one is damaged.
            RoutesError: routes.yaml says something impossible.
            RuntimeUnavailable: the device asked for cannot be used.
            SettingsError: the file of API keys is not what it should be.
        """
        metrics = Metrics()
        file = Path(settings.api_keys_file) if settings.api_keys_file else None
        guard = Guard(file, frozenset(map(Scope, settings.exempt)), metrics)
        runtime = choose_runtime(settings.runtime, settings.threads, settings.max_batch, settings.workers)
        try:
            registry = _load(settings, runtime, metrics)
        except RuntimeUnavailable as error:
            if settings.runtime != "auto":
                raise
            runtime = fall_back(settings.threads, settings.max_batch, settings.workers, str(error))
            registry = _load(settings, runtime, metrics)
        seen = Seen.of_this_replica()
        feedback = Feedback(settings.secret.get_secret_value(), metrics, seen)
        pipeline = Pipeline(
            registry,
            settings.limits,
            metrics,
            feedback,
            permits=settings.max_inflight,
            timeout_s=settings.timeout_s,
            decoders=_DECODERS_PER_CORE * cores_of_each(settings.workers),
            decoded=Room(settings.max_decoded_bytes, metrics.decoded_bytes, what="decoded audio", reason="decoded"),
            tracing=Tracing.to(settings.otlp_endpoint),
        )
        bounds = Bounds(
            settings.listen_streams,
            settings.listen_idle_s,
            settings.listen_max_s,
            settings.listen_utterance_s,
            settings.listen_send_s,
        )
        live = Live(pipeline, metrics, settings.limits, bounds)
        uploads = Room(settings.max_held_bytes, metrics.upload_bytes, what="requests", reason="uploads")
        return Parts(settings, metrics, registry, feedback, seen, uploads, pipeline, live, guard)


def _load(settings: Settings, runtime: Runtime, metrics: Metrics) -> Registry:
    return Registry(
        settings.models,
        settings.routes_file,
        runtime,
        metrics,
        wait_s=settings.max_wait_ms / 1e3,
        queue_windows=settings.max_queue,
        retire_s=settings.timeout_s + settings.upload_timeout_s,
    )
