"""uvicorn's HTTP/1.1 with bounds before a request is whole: how long its head may take, how large it may be, how many.

Behind a head everything is bounded by ours: bodies by ``transports.body``, answers by the pipeline. Where a head alone
is reason enough to refuse, the answer goes at once, and the body is thrown away as it comes.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from starlette.responses import Response
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving.errors import HeadTooLarge, Overloaded, RequestError, UploadTimeout
from serving.transports.asgi import LINGER_BYTES, LINGER_S

_HEAD_BYTES = 1 << 16
_RESERVED_DESCRIPTORS = 64  # for models, pipes, metrics and what else is not a connection
_MOST = 100_000
_SHORT_BYTES = 1 << 20  # of a body that is sooner thrown away than a connection is made anew, for both sides
_CLOSE = (b"connection", b"close")


def allow_descriptors() -> int:
    """Raise the limit of this process as far as it may; how many connections that leaves room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return _MOST if soft == resource.RLIM_INFINITY else max(1, min(_MOST, soft - _RESERVED_DESCRIPTORS))


class BoundedHttp(HttpToolsProtocol):
    """A connection on which a request's head comes soon and is small, or which is closed.

    Args:
        head_s: longest time for a head to arrive, seconds, the first one's from the connection on.
        most: connections at a time; more are told to come again.
        full: is called for each of those.
        early: the answer to a request whose head alone is reason enough to refuse it; None where it is not.
    """

    def __init__(
        self,
        *,
        head_s: float,
        most: int,
        full: Callable[[], None],
        early: Callable[[Scope], Response | None],
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._head_s, self._most, self._full, self._early = head_s, most, full, early
        self._head_bytes = 0
        self._late: asyncio.TimerHandle | None = None
        self._away: RequestResponseCycle | None = None  # whose body is being thrown away
        self._away_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > self._most:
            self._full()
            told = f"{self._most} connections are open already. Try again."
            self._refuse(Overloaded(told, retry_after_s=1, reason="connections"))
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_late()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._away is not None:
            self._throw_away(self._away, len(data))
            return
        answered = self.cycle is None or self.cycle.response_complete
        if not answered or self.parser is None or self.transport.is_closing():
            return
        if self.transport.get_protocol() is not self:
            return  # it is a WebSocket now, where no head is waited for
        # What comes while nothing is being answered belongs to a head that is not whole.
        self._head_bytes += len(data)
        if self._head_bytes > _HEAD_BYTES:
            self._refuse(HeadTooLarge(f"The head of a request is over {_HEAD_BYTES} bytes.", max_bytes=_HEAD_BYTES))
        elif self._late is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._unset_late()
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        if self._away is None or self.cycle is not self._away:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._away is None or self.cycle is not self._away:
            super().on_message_complete()
        else:
            self._away.more_body = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        answer = self._early(cast("Scope", cycle.scope))
        if answer is None:
            super()._start_asgi_task(cycle, app)
        else:
            self._turn_away(cycle, answer)

    def _turn_away(self, cycle: RequestResponseCycle, answer: Response) -> None:
        """Answer at once; the connection is kept where what is still to come is short."""
        headers = [*self.server_state.default_headers, *answer.raw_headers]
        if _CLOSE in headers or cycle.waiting_for_100_continue or not _is_short(cast("Scope", cycle.scope)):
            cycle.keep_alive = False
        if not cycle.keep_alive and _CLOSE not in headers:
            headers.append(_CLOSE)
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[answer.status_code], *lines, b"\r\n", answer.body]))
        cycle.response_started = True
        self._away, self._away_bytes = cycle, 0
        if not cycle.more_body:  # it had waited for the answer to another, and is there as a whole
            self.loop.call_soon(self._throw_away, cycle, 0)

    def _throw_away(self, away: RequestResponseCycle, size: int) -> None:
        """So much more has come of a body that nobody wants: a client that sends does not read before it is through."""
        if self._away is not away:
            return
        self._away_bytes += size
        if away.more_body and self._away_bytes < LINGER_BYTES:
            if self._late is None:
                self._late = self.loop.call_later(LINGER_S, self.transport.close)
            return
        self._unset_late()
        self._away = None
        away.response_complete = True
        if away.more_body or not away.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _expect_head(self) -> None:
        self._late = self.loop.call_later(self._head_s, self._too_late)

    def _too_late(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            self._refuse(UploadTimeout(f"No whole head of a request came within {self._head_s:g} s."))

    def _unset_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, error: RequestError) -> None:
        """Answer in the form that everything has, and close."""
        body = json.dumps(error.body()).encode()
        status = HTTPStatus(error.http_status)
        head = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *(f"{name.lower()}: {value}" for name, value in error.headers.items()),
            "connection: close",
        ]
        self.transport.write("\r\n".join([*head, "\r\n"]).encode() + body)
        self.transport.close()


def _is_short(scope: Scope) -> bool:
    """Whether a request's body will be over soon, by its head."""
    headers = dict(scope["headers"])
    return b"transfer-encoding" not in headers and int(headers.get(b"content-length", 0)) <= _SHORT_BYTES
