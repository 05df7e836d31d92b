"""What a connection takes of a client before it closes: in any pieces, and whatever waits for its answer."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, cast

import pytest
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from serving import connection
from serving.connection import BoundedHttp

GET = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
LONG = b"x" * 200_000


class Line(asyncio.Transport):
    """The service's end of a connection, without one."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.aborted = False
        self.protocol: asyncio.BaseProtocol

    def get_extra_info(self, _: str, default: Any = None) -> Any:
        return default

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def no_answer(_: Scope) -> Response | None:
    return None


def refuse_posts(scope: Scope) -> Response | None:
    return JSONResponse({}, 429) if scope["method"] == "POST" else None


async def wait(_: Scope, __: Receive, ___: Send) -> None:
    await asyncio.Event().wait()


async def answer(_: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await Response("")(cast("Scope", {"type": "http"}), receive, send)


def bounded(config: Config, state: ServerState, early: Callable[[Scope], Response | None] = no_answer) -> BoundedHttp:
    return BoundedHttp(
        head_s=60, most=1, full=lambda: None, early=early, config=config, server_state=state, app_state={}
    )


def talk(
    app: Any,
    sent: Iterable[bytes],
    early: Callable[[Scope], Response | None] = no_answer,
    *,
    reads: bool = True,
) -> Line:
    """What has become of a connection on which a client has sent this."""

    async def talking() -> Line:
        config = Config(app, log_config=None, lifespan="off")
        config.load()
        line = Line()
        line.protocol = http = bounded(config, ServerState(), early)
        http.connection_made(line)
        if not reads:
            http.pause_writing()
        for data in sent:
            if not line.closed:
                http.data_received(data)
            await asyncio.sleep(0.001)
        http.connection_lost(ConnectionError())  # which the line need not hear of
        return line

    return asyncio.run(talking())


@pytest.mark.parametrize("app", [wait, answer])
@pytest.mark.parametrize("pieces", [1, 40])
def test_a_long_head_is_refused_in_any_pieces_and_whatever_waits(app: Any, pieces: int) -> None:
    for first in (b"", GET):
        for begun in (b"GET /", b"GET / HTTP/1.1\r\nHost: t\r\nX: ", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 40_000):
            message = begun + LONG + b" HTTP/1.1\r\n\r\n"
            size = -(-len(message) // pieces)
            parts = [message[place : place + size] for place in range(0, len(message), size)]
            line = talk(app, [first + parts[0], *parts[1:]])
            assert line.closed
            if app is answer or not first:
                assert line.written.count(b"HTTP/1.1 431") == (not first or pieces > 1)
            else:
                assert line.written == b""  # or it would be taken for the answer to the first


def test_a_head_of_almost_as_much_is_taken() -> None:
    line = talk(answer, [b"GET / HTTP/1.1\r\nX: " + b"x" * 65_000 + b"\r\n\r\n"])
    assert line.written.startswith(b"HTTP/1.1 200")
    assert not line.closed


def test_a_head_of_countless_headers_is_long_whatever_stands_in_them() -> None:
    for count, status in ((13_000, b"200"), (20_000, b"431")):
        line = talk(answer, [b"GET / HTTP/1.1\r\n" + b"a:\r\n" * count + b"\r\n"])
        assert line.written.startswith(b"HTTP/1.1 " + status)


def test_trailers_are_not_kept_and_not_taken_for_ever() -> None:
    ends = [CHUNKED + b"0\r\n", b"a: b\r\n" * 100, b"\r\n" + GET]
    line = talk(answer, ends)
    assert line.written.count(b"HTTP/1.1 200") == 2
    trailers = b"a:b\r\n" * 2000
    tracemalloc.start()
    try:
        line = talk(wait, [CHUNKED + b"0\r\n", *[trailers] * 20])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert line.closed
    assert b" 431 " in line.written
    assert peak < 1 << 20


@pytest.mark.parametrize(
    "loose",
    [b"\r\n" * 40_000, CHUNKED + b"1;x=" + LONG, CHUNKED + b"0;" + LONG],
    ids=["lines", "a chunk's extension", "the last chunk's"],
)
def test_what_is_neither_head_nor_body_is_bounded(loose: bytes) -> None:
    line = talk(wait, [loose[place : place + 1000] for place in range(0, len(loose), 1000)])
    assert line.closed
    assert line.written.startswith(b"HTTP/1.1 4")


def test_a_body_in_small_chunks_has_no_such_bound() -> None:
    chunks = b"1\r\nx\r\n" * 500
    line = talk(answer, [CHUNKED, *[chunks] * 60, b"0\r\n\r\n"])
    assert line.written.startswith(b"HTTP/1.1 200")
    assert not line.closed


def test_so_many_requests_may_wait_for_an_answer_to_another() -> None:
    within = talk(answer, [GET * (connection._MOST_WAITING + 1), *[b""] * 200])
    assert within.written.count(b"HTTP/1.1 200") == connection._MOST_WAITING + 1
    assert not within.closed
    for sent in ([GET * 5000], [GET] * 5000):
        tracemalloc.start()
        try:
            line = talk(wait, sent)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert line.closed
        assert line.written == b""
        assert peak < 4 << 20


def test_a_websocket_behind_what_waits_for_its_answer_is_none() -> None:
    for first, app, early in (
        (GET, wait, no_answer),
        (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n", answer, refuse_posts),
    ):
        line = talk(app, [first + UPGRADE], early)
        assert line.closed
        assert isinstance(line.protocol, BoundedHttp)


def test_who_is_refused_and_does_not_read_is_left() -> None:
    refused = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"
    line = talk(answer, [refused] * 3, refuse_posts, reads=False)
    assert line.aborted
    assert line.written == b""


def read_by(
    client: Callable[[socket.socket, ServerState], Coroutine[Any, Any, int]], most_bytes: int, *, closes: bool = False
) -> tuple[int, bool]:
    """What a client with a small buffer makes of an answer, and whether its connection is still there afterwards."""

    async def large(_: Scope, receive: Receive, send: Send) -> None:
        headers = {"connection": "close"} if closes else {}
        await Response(b"x" * most_bytes, headers=headers)(cast("Scope", {"type": "http"}), receive, send)

    async def serving() -> tuple[int, bool]:
        config, state = Config(large, log_config=None, lifespan="off"), ServerState()
        config.load()
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        server = await asyncio.get_running_loop().create_server(lambda: bounded(config, state), sock=listening)
        with socket.socket() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            line.connect(server.sockets[0].getsockname())
            line.setblocking(False)
            line.sendall(GET)
            read = await client(line, state)
            there = bool(state.connections)
        server.close()
        return read, there

    return asyncio.run(serving())


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("more_bytes", [0, 1 << 20])
def test_who_reads_no_answer_is_let_go(monkeypatch: pytest.MonkeyPatch, more_bytes: int, *, closes: bool) -> None:
    """Of an answer that stops us from writing, and of one that is written as a whole and not on its way."""
    monkeypatch.setattr(connection, "_READ_S", 0.2)

    async def sits(_: socket.socket, state: ServerState) -> int:
        async with asyncio.timeout(60):
            for wanted in (True, False):  # it is taken up, and let go
                while bool(state.connections) is not wanted:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.01)
        return 0

    assert read_by(sits, 100_000 + more_bytes, closes=closes) == (0, False)


def test_who_reads_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_READ_S", 0.5)
    size = 1 << 20

    async def slowly(line: socket.socket, _: ServerState) -> int:
        read = 0
        while read < size:
            read += len(await asyncio.get_running_loop().sock_recv(line, 1 << 14))
            await asyncio.sleep(0.025)  # two seconds or so for all of it, four times as long as without reading
        return read

    assert read_by(slowly, size)[0] >= size
