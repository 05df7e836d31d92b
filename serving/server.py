"""The process: BentoML's lifecycle under uvicorn, with settings, logs, signals and exit codes of our own.

``bentoml serve`` puts a supervisor before the same service: a second process, a second more to start, and workers that
cannot start are restarted for ever. Requests go to the transports directly: BentoML's three layers of middleware
(tracing, a timer per request that lives a minute, a context) cost more than the rest of the way through HTTP.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import AddressError, TimbreError
from serving.lifecycle import Lifecycle
from serving.parts import Parts
from serving.service import create_service
from serving.settings import Settings
from serving.transports.http import HttpTransport

_BACKLOG = 2048  # connections that the kernel holds until they are accepted; uvicorn's own number
_FINISH_S = 30  # what is in flight at a stop has so long; a client that does not send its body would hold us for ever


def run(settings: Settings, listener: socket.socket | None = None) -> None:
    """Answer until told to stop.

    Args:
        listener: a socket that listens already, shared with other workers; one of our own where None.

    Raises:
        AddressError: the port is taken, or the address is not this machine's.
        TimbreError: nothing can be loaded.
    """
    log_to_stderr()
    lifecycle = Lifecycle()
    http = HttpTransport(lifecycle)
    server = _Server(settings, lifecycle)
    service = create_service(lifecycle, http, lambda: Parts.build(settings), server.fail)
    server.config.app = _Front(service.to_asgi(), http.app)
    server.run(sockets=[listener or listen(settings)])
    if server.failure:
        raise server.failure


def log_to_stderr() -> None:
    """Our own lines, and of uvicorn and BentoML what is a warning at least."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for library in ("uvicorn", "bentoml"):
        logging.getLogger(library).setLevel(logging.WARNING)


def listen(settings: Settings) -> socket.socket:
    """A socket that takes connections from now on.

    Raises:
        AddressError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    dual = family is socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            (settings.host, settings.port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual
        )
    except OSError as error:
        raise AddressError(
            f"{settings.url} cannot be listened on: {os.strerror(error.errno or 0)}. Stop what is there, or set "
            "TIMBRE_HOST and TIMBRE_PORT."
        ) from error


class _Front:
    """Start and stop go to BentoML's application, requests to ours."""

    def __init__(self, lifespan: ASGIApp, requests: ASGIApp) -> None:
        self._lifespan, self._requests = lifespan, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._lifespan if scope["type"] == "lifespan" else self._requests
        await app(scope, receive, send)


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
                timeout_graceful_shutdown=_FINISH_S,
            )
        )
        self._drain_s, self._lifecycle = settings.drain_s, lifecycle
        self._stop_at: float | None = None
        self.failure: TimbreError | None = None

    def fail(self, error: TimbreError) -> None:
        """Nothing can be loaded: stop."""
        self.failure = error
        self.should_exit = True

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        self._lifecycle.stopping = True
        if self.should_exit or (self._stop_at is not None and sig == signal.SIGTERM):
            self.force_exit = self.should_exit
            self.should_exit = True
        elif sig == signal.SIGTERM and self._drain_s:
            self._stop_at = time.monotonic() + self._drain_s
            self.config.encoded_headers.append((b"connection", b"close"))
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)


async def _never(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Stands where the application will be."""
