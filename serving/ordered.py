"""Streams of questions: several at a time, answered in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def next_of(items: AsyncIterator[T]) -> T | None:
    """The next item, None at the end: as a coroutine, to be waited for beside something else."""
    return await anext(items, None)


async def in_order(
    items: AsyncIterator[T], answer: Callable[[T], Awaitable[R]], at_a_time: int
) -> AsyncGenerator[R, None]:
    """What ``answer`` makes of each item, each as soon as it and all before it are ready.

    No more items are taken while ``at_a_time`` answers have not been fetched. The first answer that fails ends it, and
    so does ``items`` failing, after what came before; what is then still being worked on is given up.
    """
    begun: asyncio.Queue[asyncio.Future[R] | None] = asyncio.Queue(at_a_time)

    async def begin() -> None:
        try:
            async for item in items:
                work = asyncio.ensure_future(answer(item))
                work.add_done_callback(_seen)
                try:
                    await begun.put(work)
                except asyncio.CancelledError:
                    work.cancel()  # nobody has it yet who could
                    raise
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()
            await begun.put(None)

    beginner = asyncio.create_task(begin())
    current: asyncio.Future[R] | None = None
    try:
        while (current := await begun.get()) is not None:
            yield await current
        await beginner
    finally:
        beginner.cancel()
        if current is not None:
            current.cancel()
        while not begun.empty():
            if (left := begun.get_nowait()) is not None:
                left.cancel()


def _seen(work: asyncio.Future[R]) -> None:
    """What fails after the first failure is not wanted any more; asyncio would log that nobody looked."""
    if not work.cancelled():
        work.exception()
