"""uvicorn's WebSocket with little room between us and a client that does not read."""

from __future__ import annotations

import socket
from asyncio.transports import BaseTransport

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_ROOM_BYTES = 1 << 16  # some 150 messages


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """The kernel would hold megabytes of messages for a client that has stopped reading, for hours."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=_ROOM_BYTES)
        raw: socket.socket | None = self.transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM_BYTES)
