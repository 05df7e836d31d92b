"""What every gRPC transport needs: refusals as statuses with details, and how long a client waits."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from serving.errors import IdleTimeout, RequestError, Stopping
from serving.ordered import next_of
from serving.tracing import PARENT
from serving.transports.faults import fault

logger = logging.getLogger("timbre")

Context = grpc.aio.ServicerContext[Any, Any]
Servicer = TypeVar("Servicer")
Asked = TypeVar("Asked")
Answered = TypeVar("Answered")
Method = Callable[[Servicer, Asked, Context], Awaitable[Answered]]

ID = "x-request-id"
"""Key of the metadata that name a request."""
DOMAIN = "timbre"
"""Of the reasons in status details."""

_SILENT_S = 1.0  # after a stop: a client that sends goes on, one that only keeps its stream open does not
_DETAILS = "grpc-status-details-bin"  # where Google's richer error model has its place


async def refuse(context: Context, error: RequestError) -> NoReturn:
    """End a call with the status of a refusal.

    The message begins with the code word; the details have it as the reason of an ``ErrorInfo``, and a ``RetryInfo``
    where the refusal says when to try again. A fault's id stands in the trailing metadata, too.
    """
    code, message = grpc.StatusCode[error.grpc_status], error.line
    status = status_pb2.Status(code=code.value[0], message=message)
    metadata = {key: str(value) for key, value in error.details.items()}
    _pack(status, error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata=metadata))
    if (wait_s := error.details.get("retry_after_s")) is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1e3 * wait_s))
        _pack(status, error_details_pb2.RetryInfo(retry_delay=delay))
    trailing: list[tuple[str, str | bytes]] = [(_DETAILS, status.SerializeToString())]
    if (request_id := error.details.get("request_id")) is not None:
        trailing.append((ID, request_id))
    await context.abort(code, message, tuple(trailing))


def refusing(method: Method[Servicer, Asked, Answered]) -> Method[Servicer, Asked, Answered]:
    """A method whose request errors are told as :func:`refuse` does, and whose faults are logged and told as ours."""

    @functools.wraps(method)
    async def refuses(self: Servicer, request: Asked, context: Context) -> Answered:
        try:
            return await method(self, request, context)
        except RequestError as error:
            await refuse(context, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told that it is ours
            await refuse(context, fault(error, traceparent(context)))

    return refuses


async def until_stopped(
    requests: AsyncIterator[Asked], stopping: asyncio.Event, idle_s: float
) -> AsyncGenerator[Asked, None]:
    """A stream's requests; after a stop only as long as they come, else one idle stream would hold up the process.

    Raises:
        Stopping: the client was silent. What it asked before is answered.
        IdleTimeout: so it was for ``idle_s``.
    """
    told = asyncio.ensure_future(stopping.wait())
    coming: asyncio.Future[Asked | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(next_of(requests))
            await asyncio.wait({coming, told}, timeout=idle_s, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done() and told.done():
                await asyncio.wait({coming}, timeout=_SILENT_S)
            if not coming.done():
                raise Stopping.ends_stream() if told.done() else _idle(idle_s)
            if (request := coming.result()) is None:
                return
            yield request
    finally:
        told.cancel()
        if coming is not None:
            coming.cancel()


def _idle(idle_s: float) -> IdleTimeout:
    return IdleTimeout(
        f"No message came for {idle_s:g} s. Close the sending side when all is sent; open another stream."
    )


def waits_s(context: Context) -> float | None:
    """How many seconds the client will still wait; None where it has set no deadline."""
    left = context.time_remaining()
    return None if left is None or math.isinf(left) else max(left, 0.0)


def traceparent(context: Context) -> str | None:
    """The caller's trace, where it says that it has one."""
    for key, value in context.invocation_metadata() or ():
        if key == PARENT:
            return str(value)
    return None


def _pack(status: status_pb2.Status, detail: Any) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
