"""What a service is put together from, made once at start and handed to every transport."""

from __future__ import annotations

from dataclasses import dataclass

from serving.artifact import Artifact, versions
from serving.metrics import Metrics
from serving.pipeline import Pipeline
from serving.session import Session
from serving.settings import Settings


@dataclass(frozen=True)
class Parts:
    """The loaded and warmed-up service without any transport."""

    settings: Settings
    metrics: Metrics
    pipeline: Pipeline

    @staticmethod
    def build(settings: Settings) -> Parts:
        """Load and warm up the newest exported version and put the request path together.

        Raises:
            ArtifactError: there is no version, or it is damaged.
        """
        artifact = Artifact.load(settings.models / versions(settings.models)[-1])
        metrics = Metrics()
        return Parts(settings, metrics, Pipeline(Session(artifact), settings.limits, metrics))
