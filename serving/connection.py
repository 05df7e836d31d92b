"""uvicorn's HTTP/1.1 with bounds before a request is whole: how long its head may take, how large it may be, how many.

Behind a head everything is bounded by ours: bodies by ``transports.body``, answers by the pipeline.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import HeadTooLarge, Overloaded, RequestError, UploadTimeout

_HEAD_BYTES = 1 << 16
_RESERVED_DESCRIPTORS = 64  # for models, pipes, metrics and what else is not a connection
_MOST = 100_000


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
    """

    def __init__(self, *, head_s: float, most: int, full: Callable[[], None], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._head_s, self._most, self._full = head_s, most, full
        self._head_bytes = 0
        self._late: asyncio.TimerHandle | None = None

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
