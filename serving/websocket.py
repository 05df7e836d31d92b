"""uvicorn's WebSocket with little room between us and a client that does not read."""

from __future__ import annotations

import socket
from asyncio.transports import BaseTransport

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_ROOM_BYTES = 1 << 16  # for messages that wait, and as much again in the kernel, which doubles it
_LEAVE_S = 5  # for a client to take what it was sent before the close; one that does not read would never be gone


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """The kernel would hold megabytes of messages for a client that has stopped reading, for hours."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=_ROOM_BYTES)
        raw: socket.socket | None = self.transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM_BYTES)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._leave()

    def handle_ping(self) -> None:
        """Whoever asks on and reads no answer gets none: pongs would wait here whatever there is room for."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.transport.abort()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._leave()

    def shutdown(self) -> None:
        super().shutdown()
        self._leave()

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self._leave()

    def _leave(self) -> None:
        """Once the connection closes: that waits, without end, for what has been written to be read."""
        if self.transport.is_closing():
            self.loop.call_later(_LEAVE_S, self.transport.abort)

    async def send(self, message: ASGISendEvent) -> None:
        """A close frame is small and the last: it waits for no room, and the connection is over soon after it."""
        if message["type"] == "websocket.close":
            self.writable.set()
            self.loop.call_later(_LEAVE_S, self.transport.abort)
        await super().send(message)
