"""The BentoML service: loads the parts, opens the transports over them, and closes them again.

Run by ``python -m serving serve``; ``bentoml serve serving.service:Timbre`` works too, under BentoML's supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import bentoml

from serving.errors import StartFault, TimbreError
from serving.lifecycle import Lifecycle
from serving.parts import Parts
from serving.settings import Settings
from serving.transports import http as predict
from serving.transports.early import Early
from serving.transports.http import HttpTransport
from serving.transports.listen import ListenTransport
from serving.transports.oip import http as oip
from serving.transports.oip.http import OipHttpTransport

if TYPE_CHECKING:
    from serving.grpc_server import GrpcServer

logger = logging.getLogger("timbre")

_HOUSEKEEPING_S = 1.0
_CLEAN_EVERY = 3600  # rounds of housekeeping


def create_service(
    lifecycle: Lifecycle,
    http: HttpTransport,
    read_settings: Callable[[], Settings],
    failed: Callable[[TimbreError], None],
    loaded: Callable[[], None] = lambda: None,
) -> Any:
    """The BentoML service.

    Args:
        lifecycle: gets the parts when they are loaded, unless it has them; until then transports answer that the
            service is starting.
        http: the application that is mounted.
        read_settings: called when the service starts, not before.
        failed: is told when nothing can be loaded, or the gRPC port is taken.
        loaded: is told when everything can be answered.
    """

    # BentoML's access log costs more than a small request does, and its metrics grow a series for every path that
    # anybody asks for. Ours are at /metrics.
    @bentoml.service(name="timbre", workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
    @bentoml.asgi_app(http.app, path="/")
    class Timbre:
        """Hears a voice and says which emotion is in it."""

        @bentoml.on_deployment
        def check() -> None:
            """Under ``bentoml serve``, before any worker: refuse in one line what workers would fail at for ever."""
            try:
                Parts.build(read_settings())
            except TimbreError as error:
                raise SystemExit(f"Timbre does not start. {error}") from None

        @bentoml.on_startup
        async def open(self) -> None:
            """Answer at once that it is starting, and load."""
            lifecycle.opened()
            self._doors = contextlib.AsyncExitStack()
            self._work = asyncio.create_task(_load_and_keep(lifecycle, read_settings, failed, loaded, self._doors))

        @bentoml.on_shutdown
        async def close(self) -> None:
            """Everything in flight over HTTP has been answered; what is over gRPC will be."""
            lifecycle.stop()
            self._work.cancel()  # first: a start that is not over yet shall open no more doors
            await asyncio.wait({self._work})
            await self._doors.aclose()
            if lifecycle.parts:
                await lifecycle.parts.pipeline.close()

        async def __is_ready__(self) -> bool:
            """For BentoML's own /readyz."""
            return await lifecycle.why_not_ready() is None

    return Timbre


async def _load_and_keep(
    lifecycle: Lifecycle,
    read_settings: Callable[[], Settings],
    failed: Callable[[TimbreError], None],
    loaded: Callable[[], None],
    doors: contextlib.AsyncExitStack,
) -> None:
    """Load, open, and then follow routes.yaml and keep house until cancelled."""
    try:
        parts = await _start(lifecycle, read_settings(), doors)
    except TimbreError as error:
        failed(error)
        return
    except Exception as error:  # whatever it is, nobody shall wait for a start that has failed
        logger.exception("The start failed")
        failed(StartFault(f"{type(error).__name__}: {error}. The log says where."))
        return
    loaded()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(parts.registry.watch())
        tasks.create_task(_keep_house(lifecycle, parts))


async def _start(lifecycle: Lifecycle, settings: Settings, doors: contextlib.AsyncExitStack) -> Parts:
    """Load, and open the gRPC port meanwhile."""
    loading = asyncio.create_task(asyncio.to_thread(lambda: lifecycle.parts or Parts.build(settings)))
    server = await _open_grpc(settings, lifecycle, doors)
    lifecycle.parts = parts = await loading
    if server is not None:
        await server.tell()
    runtime = parts.registry.runtime
    versions, urls = ", ".join(parts.registry.fleet.versions), filter(None, (settings.url, settings.grpc_url))
    logger.info("Version %s on %s answers at %s", versions, runtime.device, " and ".join(urls))
    if settings.warning:
        logger.warning(settings.warning)
    if runtime.note:
        logger.info("On the CPU, because there is %s", runtime.note)
    return parts


async def _open_grpc(settings: Settings, lifecycle: Lifecycle, doors: contextlib.AsyncExitStack) -> GrpcServer | None:
    """Open the gRPC port, if there shall be one, while the models are being loaded."""
    if not settings.grpc_port:
        return None
    server = (await asyncio.to_thread(_grpc_server))(settings, lifecycle)
    await server.open()
    doors.push_async_callback(server.close)
    return server


def _grpc_server() -> type[GrpcServer]:
    from serving.grpc_server import GrpcServer  # slow to import, and HTTP answers meanwhile

    return GrpcServer


async def _keep_house(lifecycle: Lifecycle, parts: Parts) -> None:
    """What is measured by looking now and then, and what must be thrown away now and then."""
    fault = ""
    for turn in range(1 << 62):
        try:
            parts.metrics.ready.set(await lifecycle.why_not_ready() is None)
            for version, loaded in parts.registry.fleet.versions.items():
                parts.metrics.queue_oldest.labels(version).set(loaded.batcher.oldest_s())
            await asyncio.to_thread(parts.guard.follow)
            if turn % _CLEAN_EVERY == 0:
                await asyncio.to_thread(parts.seen.clean)
            fault = ""
        except Exception as error:  # whatever it is, such as a full disk: the next turn is taken
            if repr(error) != fault:  # one that lasts is told once
                logger.exception("A turn of housekeeping failed")
            fault = repr(error)
        await asyncio.sleep(_HOUSEKEEPING_S)


def http_transport(lifecycle: Lifecycle, *, page: bool = True) -> HttpTransport:
    """Everything that is answered on the HTTP port.

    Args:
        page: whether the web page may be there; whether it is, the settings say when they are read.
    """
    routes = [*OipHttpTransport(lifecycle).routes, *ListenTransport(lifecycle).routes]
    if page:
        from serving.transports.page import PageTransport  # not even loaded where there shall be no page

        routes += PageTransport(lifecycle).routes
    return HttpTransport(lifecycle, routes)


def early_refusals(lifecycle: Lifecycle) -> Early:
    """What is refused on the HTTP port before any of that hears of it."""
    return Early(lifecycle, {predict.TRANSPORT: predict.PREDICT, oip.TRANSPORT: oip.INFER})


def _stop_worker(error: TimbreError) -> None:
    logger.error("Timbre does not start. %s", error)
    os.kill(os.getpid(), signal.SIGTERM)


def __getattr__(name: str) -> Any:
    """``serving.service:Timbre`` for BentoML's own commands, made when it is asked for and not at import."""
    if name == "Timbre":
        lifecycle = Lifecycle()
        return create_service(lifecycle, http_transport(lifecycle), Settings.from_environment, _stop_worker)
    raise AttributeError(name)
