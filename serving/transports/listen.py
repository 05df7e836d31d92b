"""Live audio over a WebSocket: /v1/listen. What is said over it stands in ``serving.messages``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from serving.errors import InternalError, InvalidFrame, InvalidRequest, RequestError, UpgradeRequired
from serving.keys import Scope as Use
from serving.lifecycle import Lifecycle
from serving.live import Listen
from serving.messages import End, ErrorMessage, Message
from serving.parts import Parts
from serving.schemas import ErrorDetail
from serving.tracing import PARENT
from serving.transports.admission import credential_of, foreign, is_foreign
from serving.transports.faults import fault
from serving.transports.query import KEY, OF_PREDICTIONS, VERSION, min_confidence, number, parameters
from serving.transports.refusals import refusal

TRANSPORT = "websocket"
"""This transport's name in the metrics."""

PATH = "/v1/listen"
EXAMPLE = f"{PATH}?rate_hz=16000"
"""How it is opened."""

_RATE, _HOP = "rate_hz", "hop_s"

PROTOCOL, _KEY = "timbre", "timbre.key."
"""Subprotocols: ours, and what stands before a key that comes as another."""

# Why a socket is closed (RFC 6455, 7.4.1, and IANA's registry).
_DONE, _POLICY, _FAULT, _RESTART, _LATER = 1000, 1008, 1011, 1012, 1013
_CLOSE_CODES = {
    "stopping": _RESTART,
    "version_retired": _RESTART,
    "starting": _LATER,
    "overloaded": _LATER,
    "rate_limited": _LATER,
}
_LAST_WORD_S = 1.0
_HOST_CHARACTERS = 100


class ListenTransport:
    """The socket's path, for the HTTP application."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    @property
    def routes(self) -> list[BaseRoute]:
        """What is mounted."""
        return [WebSocketRoute(PATH, self._listen), Route(PATH, _Unopened())]

    async def _listen(self, socket: WebSocket) -> None:
        # Accepted whatever comes of it: a browser shows its script nothing of a refused handshake.
        await socket.accept(PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)

        async def send(message: Message) -> None:
            await socket.send_text(message.model_dump_json())

        try:
            parts, stopping = self._lifecycle.get(), self._lifecycle.told_to_stop
            _admit(socket, parts)
            await parts.live.converse(TRANSPORT, lambda: _asked(socket), _frames(socket), send, stopping)
            await socket.close(_DONE)
        except WebSocketDisconnect:
            pass
        except RequestError as error:
            await _refuse(socket, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told that it is ours
            await _refuse(socket, fault(error, socket.headers.get(PARENT)))


class _Unopened:
    """Whoever asks for the path over HTTP, by whatever method, hears what it is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scheme = scope["scheme"].replace("http", "ws")
        host = Headers(scope=scope).get("host", "localhost")[:_HOST_CHARACTERS]
        error = UpgradeRequired(
            f"{PATH} is a WebSocket and {scope['method']} came without an upgrade. Open it as "
            f"{scheme}://{host}{EXAMPLE}; what stands before the service must let upgrades through."
        )
        await refusal(error)(scope, receive, send)


def _admit(socket: WebSocket, parts: Parts) -> None:
    """Ask for the key: of a header, or, since a page can set none, behind a protocol's name.

    Raises:
        Forbidden, Unauthenticated, RateLimited: see ``serving.keys``, or a page of another site.
    """
    if is_foreign(socket.headers, parts.settings.cors_origins):
        raise foreign(socket.headers)
    credential, _ = credential_of(socket.headers)
    offered = [name.removeprefix(_KEY) for name in socket.scope["subprotocols"] if name.startswith(_KEY)]
    parts.guard.admit(offered[0] if credential is None and offered else credential, Use.PREDICT)


async def _refuse(socket: WebSocket, error: RequestError) -> None:
    message = ErrorMessage(error=ErrorDetail(**error.body()["error"]))
    code = _CLOSE_CODES.get(error.code, _FAULT if error.http_status >= InternalError.http_status else _POLICY)
    with contextlib.suppress(WebSocketDisconnect):
        # Who does not read is told by the close frame alone.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                await socket.send_text(message.model_dump_json())
        await socket.close(code, error.code)


async def _asked(socket: WebSocket) -> Listen:
    """The query's parameters.

    Raises:
        InvalidRequest: the rate is missing, or one of them is not what it should be.
    """
    given = parameters(socket.query_params, PATH, (_RATE, _HOP, *OF_PREDICTIONS))
    rate_hz = number(given, _RATE, int, "a whole number, the samples a second of the frames")
    if rate_hz is None:
        raise InvalidRequest(f"{_RATE} is missing, the samples a second of the frames: {EXAMPLE}.")
    hop_s = number(given, _HOP, float, "a number, the seconds between two measurements")
    parent = socket.headers.get(PARENT)
    return Listen(TRANSPORT, rate_hz, given.get(VERSION), given.get(KEY), min_confidence(given), hop_s, parent)


async def _frames(socket: WebSocket) -> AsyncIterator[bytes]:
    """Binary messages until one of text says that there are no more.

    Raises:
        WebSocketDisconnect: the client has left.
        InvalidFrame: a text message that says something else.
    """
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        if (frame := message.get("bytes")) is not None:
            yield frame
            continue
        try:
            End.model_validate_json(message["text"])
        except ValidationError:
            raise InvalidFrame(
                f"Text came that is not {End().model_dump_json()}. Samples are sent as binary messages."
            ) from None
        return
