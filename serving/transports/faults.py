"""Faults of ours, told alike by every transport: the client gets an id, and finds by it what the log says."""

from __future__ import annotations

import logging
import re
import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import InternalError
from serving.tracing import PARENT
from serving.transports.refusals import refusal

logger = logging.getLogger("timbre")

_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context, 3.2.2


def fault(error: Exception, parent: str | None) -> InternalError:
    """What a client is told of a fault of ours; the log says which, at the same id.

    Args:
        parent: the caller's traceparent, whose trace is the id; one is made where there is none.
    """
    traced = _TRACE.fullmatch(parent or "")
    request_id = traced[1] if traced else secrets.token_hex(16)
    logger.error("Request %s failed", request_id, exc_info=error, extra={"request_id": request_id})
    return InternalError(
        f"The service failed on this request. Its log says why, at {request_id}; the request may be sent again.",
        request_id=request_id,
    )


class Faults:
    """The application over HTTP, whose faults are answered: the server would log them, and know no id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise  # so that the server breaks the connection off
            await refusal(fault(error, Headers(scope=scope).get(PARENT)), scope["path"])(scope, receive, send)
