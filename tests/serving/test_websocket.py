"""What becomes of a WebSocket whose client reads nothing: by whatever end, it is gone soon."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from serving import websocket
from serving.websocket import BoundedWebSocket

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MASK = bytes(4)
PING = b"\x89\xfd" + MASK + bytes(125)
CLOSE = b"\x88\x82" + MASK + (1000).to_bytes(2, "big")
RESERVED = b"\x83\x80" + MASK  # an opcode that means nothing

Client = Callable[[socket.socket, ServerState], Coroutine[Any, Any, None]]


async def talks(_: Any, receive: Any, send: Any) -> None:
    """Until nothing more can be written; then nothing is left to do but to wait for the client."""
    await send({"type": "websocket.accept"})

    async def on_and_on() -> None:
        while True:
            await send({"type": "websocket.send", "bytes": bytes(4096)})

    talking = asyncio.ensure_future(on_and_on())
    while (await receive())["type"] != "websocket.disconnect":
        pass
    talking.cancel()


async def listens(_: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def nothing(_: socket.socket, __: ServerState) -> None:
    """The keepalive has its own end."""


async def a_close(line: socket.socket, _: ServerState) -> None:
    line.sendall(CLOSE)


async def no_frame(line: socket.socket, _: ServerState) -> None:
    line.sendall(RESERVED)


async def a_stop(_: socket.socket, state: ServerState) -> None:
    for connection in list(state.connections):
        connection.shutdown()


def left_by(app: Any, client: Client, ping_s: float | None = None) -> bool:
    """Whether a connection is gone a while after a client that reads nothing has done its last."""

    async def serving() -> bool:
        config, state = Config(app, log_config=None, lifespan="off"), ServerState()
        config.ws_ping_interval = config.ws_ping_timeout = ping_s
        config.load()
        server = await asyncio.get_running_loop().create_server(
            lambda: BoundedWebSocket(config, state, {}), "127.0.0.1", 0
        )
        with socket.socket() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect(server.sockets[0].getsockname())
            line.setblocking(False)
            line.sendall(HANDSHAKE)
            async with asyncio.timeout(60):
                while not state.connections:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            assert ping_s or state.connections
            await client(line, state)
            for _ in range(1200):
                await asyncio.sleep(0.05)
                if not state.connections:
                    break
            gone = not state.connections
        server.close()
        return gone

    return asyncio.run(serving())


@pytest.mark.parametrize(("client", "ping_s"), [(nothing, 0.2), (a_close, None), (no_frame, None), (a_stop, None)])
def test_a_close_waits_for_no_reader(monkeypatch: pytest.MonkeyPatch, client: Client, ping_s: float | None) -> None:
    monkeypatch.setattr(websocket, "_LEAVE_S", 0.2)
    assert left_by(talks, client, ping_s)


def test_who_pings_and_reads_no_pongs_is_left() -> None:
    sent = 0

    async def pings(line: socket.socket, _state: ServerState) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            for _ in range(500):
                await asyncio.get_running_loop().sock_sendall(line, PING * 1000)
                sent += len(PING) * 1000

    assert left_by(listens, pings)
    assert sent < 16 << 20
