"""What every transport over HTTP needs: to notice that its client has left, and to refuse it while it still sends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from serving.places import Place

T = TypeVar("T")

_WATCH_AFTER_S = 0.25

LINGER_BYTES, LINGER_S = 64 << 20, 2
"""What a client may still send after it has been refused, before its connection is closed."""


def place_of(scope: Scope) -> Place | None:
    """What was kept for a request when its head had come and its key had been looked at; None where it was not so."""
    place: Place | None = scope.get("state", {}).get("place")
    return place


async def unless_gone(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """The answer, given up when the client leaves.

    Quick requests are not watched: nobody leaves within so short a time, and a watcher costs more than it saves.

    Raises:
        ClientDisconnect: nobody is there to be answered.
    """
    work = asyncio.ensure_future(answer)
    try:
        done, _ = await asyncio.wait({work}, timeout=_WATCH_AFTER_S)
        if done:
            return work.result()
        watcher = asyncio.ensure_future(_gone(request))
        await asyncio.wait({work, watcher}, return_when=asyncio.FIRST_COMPLETED)
        watcher.cancel()
        if work.done():
            return work.result()
        raise ClientDisconnect
    finally:
        work.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Unread(JSONResponse):
    """Refuses a request whose body has not come in whole, and closes its connection.

    Closed at once, the kernel would reset it under a client that is still sending, which then never sees the answer; so
    a little more is taken and thrown away first.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - Starlette's name
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_S):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            pass  # whoever still sends has had the time to read
        await send({"type": "http.response.body", "body": b""})
