"""The BentoML service: mounts the transports, opens and closes them.

Run by ``python -m serving serve``; ``bentoml serve serving.service:Timbre`` works too, under BentoML's supervisor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bentoml

from serving.errors import TimbreError
from serving.parts import Parts
from serving.settings import Settings
from serving.transports.http import HttpTransport


def create_service(make_parts: Callable[[], Parts]) -> Any:
    """The BentoML service over parts that are made when it starts."""
    http = HttpTransport()

    # BentoML's access log costs more than a small request does, and its metrics grow a series for every path that
    # anybody asks for. Ours are at /metrics.
    @bentoml.service(name="timbre", workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
    @bentoml.asgi_app(http.app, path="/")
    class Timbre:
        """Hears a voice and says which emotion is in it."""

        def __init__(self) -> None:
            self._parts = make_parts()

        @bentoml.on_deployment
        def check() -> None:
            """Under ``bentoml serve``, before any worker: refuse in one line what workers would fail at for ever."""
            try:
                make_parts().pipeline.close()
            except TimbreError as error:
                raise SystemExit(f"Timbre does not start. {error}") from None

        @bentoml.on_startup
        def open(self) -> None:
            """The model is loaded and warmed up: answer."""
            http.open(self._parts)

        @bentoml.on_shutdown
        def close(self) -> None:
            """Everything in flight has been answered."""
            self._parts.pipeline.close()

    return Timbre


def __getattr__(name: str) -> Any:
    """``serving.service:Timbre`` for BentoML's own commands, made when it is asked for and not at import."""
    if name == "Timbre":
        return create_service(lambda: Parts.build(Settings.from_environment()))
    raise AttributeError(name)
