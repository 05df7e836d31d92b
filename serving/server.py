"""The process: BentoML's lifecycle under uvicorn, with settings, logs, signals and exit codes of our own.

``bentoml serve`` puts a supervisor before the same service: a second process, a second more to start, and workers that
cannot start are restarted for ever. Requests go to the transports directly: BentoML's three layers of middleware
(tracing, a timer per request that lives a minute, a context) cost more than the rest of the way through HTTP.
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE

from serving.connection import BoundedHttp, room_for
from serving.errors import AddressError, TimbreError
from serving.lifecycle import Lifecycle
from serving.logs import log_to_stderr
from serving.parts import Parts
from serving.service import create_service, early_refusals, http_transport
from serving.settings import Settings
from serving.tls import tls_context
from serving.transports.asgi import place_of

_BACKLOG = 2048  # connections that the kernel holds until they are accepted; uvicorn's own number
_MESSAGE_BYTES = 1 << 18  # of a WebSocket; the longest frame of live audio has 96 kB
_IDLE_S = 75  # longer than balancers keep idle connections, 60 s mostly: the one that closes first loses no request


def run(
    settings: Settings,
    listener: socket.socket | None = None,
    *,
    load_first: bool = False,
    loaded: Callable[[], None] = lambda: None,
) -> None:
    """Answer until told to stop.

    Args:
        listener: a socket that listens already, shared with other workers; one of our own where None.
        load_first: load before the first connection is taken, since others can answer it meanwhile.
        loaded: is told when everything can be answered.

    Raises:
        AddressError: a port is taken, or the address is not this machine's.
        SettingsError: the TLS files are not what they should be.
        TimbreError: nothing can be loaded.
    """
    log_to_stderr(settings.log)
    _find_scratch()
    lifecycle = Lifecycle(Parts.build(settings) if load_first else None)
    http = http_transport(lifecycle, page=settings.ui == "on")
    server = _Server(settings, lifecycle)
    service = create_service(lifecycle, http, lambda: settings, server.fail, loaded)
    server.config.app = _Front(service.to_asgi(), http.app)
    server.run(sockets=[listener or listen(settings)])
    if server.failure:
        raise server.failure


def _find_scratch() -> None:
    """BentoML makes an empty folder at its start; where nothing can be written, that lies in memory."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = "/dev/shm"  # noqa: S108 - a folder of a name that nobody guesses is made in it


def listen(settings: Settings) -> socket.socket:
    """A socket that takes connections from now on.

    Raises:
        AddressError: the port is taken, or the address is not this machine's.
    """
    return _listen(settings, settings.port, settings.url)


def check_grpc_port(settings: Settings) -> None:
    """Whether nobody is at the gRPC port: workers share it, and would share it with a stranger too.

    Raises:
        AddressError: the port is taken, or the address is not this machine's.
    """
    if settings.grpc_port:
        _listen(settings, settings.grpc_port, settings.grpc_url).close()


def _listen(settings: Settings, port: int, url: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    dual = family is socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((settings.host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    except OSError as error:
        raise AddressError(
            f"{url} cannot be listened on: {os.strerror(error.errno or 0)}. Stop what is there, or set TIMBRE_HOST, "
            "TIMBRE_PORT and TIMBRE_GRPC_PORT."
        ) from error


class _Front:
    """Start and stop go to BentoML's application, requests to ours."""

    def __init__(self, lifespan: ASGIApp, requests: ASGIApp) -> None:
        self._lifespan, self._requests = lifespan, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._lifespan if scope["type"] == "lifespan" else self._requests
        try:
            await app(scope, receive, send)
        finally:
            if place := place_of(scope):
                place.give_up()  # of one that was refused for something else


class _Server(uvicorn.Server):
    """Stops in two steps on SIGTERM, at once on Ctrl-C, and exits 0 after both: being told to stop is no failure.

    For the first ``drain_s`` after SIGTERM it says that it is not ready and asks clients to reconnect, and answers
    everything, so that load balancers hear of it before the door closes.
    """

    def __init__(self, settings: Settings, lifecycle: Lifecycle) -> None:
        super().__init__(
            uvicorn.Config(
                _never,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_IDLE_S,
                http=_http(settings, lifecycle),  # type: ignore[arg-type]  # called like the class, too
                ws=_websocket,  # type: ignore[arg-type]  # called like the class that it makes one of
                ws_max_size=_MESSAGE_BYTES,
            )
        )
        if context := tls_context(settings):
            self.config.ssl_context_factory = lambda _, __: context
        self._drain_s, self._head_s, self._lifecycle = settings.drain_s, settings.head_timeout_s, lifecycle
        self._stop_at: float | None = None
        self.failure: TimbreError | None = None

    def fail(self, error: TimbreError) -> None:
        """Nothing can be loaded: stop."""
        self.failure = error
        self.should_exit = True

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        self._lifecycle.stop()
        if self.should_exit or (self._stop_at is not None and sig == signal.SIGTERM):
            self.force_exit = self.should_exit
            self.should_exit = True
        elif sig == signal.SIGTERM and self._drain_s:
            self._stop_at = time.monotonic() + self._drain_s
            self.config.encoded_headers.append((b"connection", b"close"))
        else:
            self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which would give each TLS handshake a minute: whoever connects may say nothing for so long."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        loop, config = asyncio.get_running_loop(), self.config
        protocol = functools.partial(
            cast("Callable[..., asyncio.Protocol]", config.http_protocol_class),
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        handshake_s = self._head_s if config.ssl else None
        self.servers = [
            await loop.create_server(
                protocol, sock=one, ssl=config.ssl, backlog=config.backlog, ssl_handshake_timeout=handshake_s
            )
            for one in sockets or ()
        ]
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Live streams were told; they end in their own words before connections are closed.

        Then requests over HTTP have what is left of the time, and what they leave is for gRPC.
        """
        left_s = self._lifecycle.left_to_finish_s()
        if self._lifecycle.parts and not self.force_exit:
            await self._lifecycle.parts.live.quiet(left_s)
            left_s = self._lifecycle.left_to_finish_s()
        self.config.timeout_graceful_shutdown = math.ceil(left_s)  # uvicorn's are whole seconds
        await super().shutdown(sockets)


def _http(settings: Settings, lifecycle: Lifecycle) -> Callable[..., asyncio.Protocol]:
    def full() -> None:
        if lifecycle.parts:
            lifecycle.parts.metrics.rejects.labels("connections").inc()

    most, _ = room_for(settings)
    return functools.partial(
        BoundedHttp, head_s=settings.head_timeout_s, most=most, full=full, early=early_refusals(lifecycle)
    )


def _websocket(**arguments: Any) -> asyncio.Protocol:
    from serving.websocket import BoundedWebSocket  # what no start need wait for

    return BoundedWebSocket(**arguments)


async def _never(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Stands where the application will be."""
