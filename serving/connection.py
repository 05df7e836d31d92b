"""uvicorn's HTTP/1.1 with bounds on what a client may leave undone: heads that do not end, answers that nobody reads.

A connection that goes over one is answered where nothing else is being answered on it, and closed.

What is behind a head others bound: bodies ``transports.body``, the work on them the pipeline. Where a head alone
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
from serving.settings import Settings
from serving.transports.asgi import LINGER_BYTES, LINGER_S

_HEAD_BYTES = 1 << 16
_HEADER_BYTES = len(b": \r\n")  # of a header beside its name and value; a head of nothing else would be the dearest
_RESERVED_DESCRIPTORS = 64  # for models, pipes, metrics and what else is not a connection
_MOST = 100_000
_MOST_WAITING = 100  # requests behind one that is being answered
_SHORT_BYTES = 1 << 20  # of a body that is sooner thrown away than a connection is made anew, for both sides
_READ_S, _READ_BYTES = 20.0, 1 << 16
"""Whoever is answered takes so much of it in so long, or all of it; who does not is gone."""
_CLOSE = (b"connection", b"close")


class _EnoughError(Exception):
    """Stops the parser in the middle of what has come."""


def _allow_descriptors() -> int:
    """Raise the limit of this process as far as it may; how many connections that leaves room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return _MOST if soft == resource.RLIM_INFINITY else max(1, min(_MOST, soft - _RESERVED_DESCRIPTORS))


def room_for(settings: Settings) -> tuple[int, int]:
    """Most connections at a time over HTTP and over gRPC, which share the descriptors of this process.

    gRPC has what the settings say, half of the room at most; HTTP has the rest.
    """
    room = _allow_descriptors()
    over_grpc = min(settings.grpc_connections, room // 2) if settings.grpc_port else 0
    return room - over_grpc, over_grpc


class BoundedHttp(HttpToolsProtocol):
    """A connection on which a request's head comes soon and is small and its answer is read, or which is closed.

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
        self._in_head = False
        self._head_bytes = 0  # of the head that is coming, as far as it has been parsed
        self._loose_bytes = 0  # since a head was whole or a body had a byte more
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
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
        self._unset_unread()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unset_unread()
        self._watch_reader()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_reader()  # what a client leaves unread may be less than stops us from writing

    def _unset_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _watch_reader(self) -> None:
        if self._unread is None and (size := self.transport.get_write_buffer_size()):
            self._unread = self.loop.call_later(_READ_S, self._look_at_reader, size)

    def _look_at_reader(self, before: int) -> None:
        """Closing would wait for who does not read. Others may follow what was not read: it is the pace that counts."""
        self._unread = None
        if self.transport.get_write_buffer_size() > max(0, before - _READ_BYTES):
            self.transport.abort()
        else:
            self._watch_reader()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._loose_bytes += len(data)
        super().data_received(data)
        if self.parser is None or self.transport.is_closing() or self.transport.get_protocol() is not self:
            return  # gone, or a WebSocket now, where no head is waited for
        if self._loose_bytes > _HEAD_BYTES:  # a head, or ends of lines, or what stands beside a body and is none of it
            self._too_large()
        elif self._away is not None:
            self._throw_away(self._away, len(data))
        elif self._answered and self._late is None:
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        """The parser has stopped: at what is no HTTP, or because one of the methods here has had enough."""
        if self._head_bytes > _HEAD_BYTES:
            self._too_large()
        elif self._may_answer:
            super().send_400_response(msg)
        else:
            self._end()

    @property
    def _answered(self) -> bool:
        """Whether every request that has come has its answer."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _may_answer(self) -> bool:
        """Whether what is written now is not taken for the answer to another request than the one that is coming."""
        return self._answered or (self.cycle.more_body and not self.cycle.response_started and not self.pipeline)

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._take(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer, which nobody here reads
            self._take(len(name) + len(value) + _HEADER_BYTES)
            super().on_header(name, value)

    def _take(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _HEAD_BYTES:
            raise _EnoughError

    def on_headers_complete(self) -> None:
        upgrades = self.parser.should_upgrade() and self._should_upgrade()
        if len(self.pipeline) >= _MOST_WAITING or (upgrades and not self._answered):
            raise _EnoughError
        self._unset_late()
        self._in_head, self._loose_bytes = False, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._loose_bytes = 0
        if self._away is None or self.cycle is not self._away:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._loose_bytes = 0
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
        if self.flow.write_paused:  # whoever asks on and reads no answer gets none
            self.transport.abort()
            return
        headers = [*self.server_state.default_headers, *answer.raw_headers]
        if _CLOSE in headers or cycle.waiting_for_100_continue or not _is_short(cast("Scope", cycle.scope)):
            cycle.keep_alive = False
        if not cycle.keep_alive and _CLOSE not in headers:
            headers.append(_CLOSE)
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[answer.status_code], *lines, b"\r\n", answer.body]))
        cycle.response_started = True
        self._away, self._away_bytes = cycle, 0
        # Where nothing more comes: its body is there as a whole, or never will be.
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

    def _too_large(self) -> None:
        if self._may_answer:
            self._refuse(HeadTooLarge(f"The head of a request is over {_HEAD_BYTES} bytes.", max_bytes=_HEAD_BYTES))
        else:
            self._end()

    def _end(self) -> None:
        """Close, with what has been written before if it is read soon."""
        self.transport.close()
        self.loop.call_later(LINGER_S, self.transport.abort)

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
        self._end()


def _is_short(scope: Scope) -> bool:
    """Whether a request's body will be over soon, by its head."""
    headers = dict(scope["headers"])
    return b"transfer-encoding" not in headers and int(headers.get(b"content-length", 0)) <= _SHORT_BYTES
