"""Both directions of a live stream at once: frames go while messages come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from typing import TypeAlias

from serving.client.answers import Message
from serving.client.clips import Array, pcm
from serving.client.transport import Options, Stream, Transport
from serving.errors import Unreachable

_MOMENT_S = 1.0

Frames: TypeAlias = AsyncIterable[bytes | Array] | Iterable[bytes | Array]


async def begin(transport: Transport, rate_hz: int, options: Options) -> tuple[Stream, Message]:
    """A stream and its first message: only with that has the service accepted it.

    Raises:
        RequestError, Unreachable, UnexpectedAnswer: it has not.
    """
    stream = await transport.listen(rate_hz, options)
    try:
        return stream, await _first(stream)
    except BaseException:
        await stream.close()
        raise


async def converse(stream: Stream, first: Message, frames: Frames) -> AsyncGenerator[Message, None]:
    """Send the frames, yield the first message and what comes, close the stream.

    Raises:
        RequestError, Unreachable: the service ends the stream, or it breaks.
        Exception: whatever the frames' own iterator raises.
    """
    sender = asyncio.create_task(_send(stream, frames))
    try:
        yield first
        while (message := await stream.receive()) is not None:
            yield message
        # A sender that fails closes the stream, and is done a moment later than its reader hears of it.
        await asyncio.wait({sender}, timeout=_MOMENT_S)
        if not sender.done():
            raise Unreachable("The service has closed the live stream before its end.")
        await sender  # where sending failed, this says why
    finally:
        sender.cancel()
        await stream.close()


async def _first(stream: Stream) -> Message:
    message = await stream.receive()
    if message is None:
        raise Unreachable("The service has closed the live stream at once.")
    return message


async def _send(stream: Stream, frames: Frames) -> None:
    """Send every frame, then say that it was the last. What goes wrong closes the stream, so that its reader wakes."""
    try:
        async for frame in frames if isinstance(frames, AsyncIterable) else _in_a_thread(frames):
            await stream.send(pcm(frame))
        await stream.end()
    except BaseException:
        await stream.close()
        raise


async def _in_a_thread(frames: Iterable[bytes | Array]) -> AsyncIterator[bytes | Array]:
    """A plain iterable that may block, a microphone's for one."""
    iterator = iter(frames)
    while (frame := await asyncio.to_thread(next, iterator, None)) is not None:
        yield frame
