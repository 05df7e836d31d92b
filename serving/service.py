"""The BentoML service: builds the parts, mounts the transports, opens and closes them.

Run by ``python -m serving serve``; ``bentoml serve serving.service:Timbre`` works too, under BentoML's supervisor.
"""

from __future__ import annotations

import os

import bentoml

from serving.artifact import Artifact, versions
from serving.errors import TimbreError
from serving.pipeline import Pipeline
from serving.session import Session
from serving.settings import Settings
from serving.transports.http import HttpTransport

_http = HttpTransport()


def newest(settings: Settings) -> Artifact:
    """The newest exported version, verified.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """
    return Artifact.load(settings.models / versions(settings.models)[-1])


# BentoML's access log costs more than a small request does; its per-request metrics say who asked what.
@bentoml.service(name="timbre", workers=1, logging={"access": {"enabled": False}})
@bentoml.asgi_app(_http.app, path="/")
class Timbre:
    """Hears a voice and says which emotion is in it."""

    def __init__(self) -> None:
        self._settings = Settings.from_environment()
        # One thread a forward pass: several passes side by side use the cores better than one that is split.
        session = Session(newest(self._settings), threads=1)
        self._pipeline = Pipeline(session, self._settings.limits, workers=len(os.sched_getaffinity(0)))

    @bentoml.on_deployment
    def check() -> None:
        """Under ``bentoml serve``, before any worker: refuse in one line what a worker would fail at for ever."""
        try:
            newest(Settings.from_environment())
        except TimbreError as error:
            raise SystemExit(f"Timbre does not start. {error}") from None

    @bentoml.on_startup
    def open(self) -> None:
        """The model is loaded and warmed up: answer."""
        _http.open(self._pipeline, self._settings)

    @bentoml.on_shutdown
    def close(self) -> None:
        """Everything in flight has been answered."""
        self._pipeline.close()
