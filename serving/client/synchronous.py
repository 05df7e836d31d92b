"""The client for code that is not ``async``: the same calls, made in an event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar

from serving.client.answers import Message, Prediction
from serving.client.asynchronous import AHEAD, AsyncClient, in_order
from serving.client.clips import Array, ClipLike
from serving.once import once

T = TypeVar("T")

_MOMENT_S = 0.01


class Client:
    """Asks a service; arguments, answers and errors are those of :class:`AsyncClient`.

    Safe to use from several threads at once, and where an event loop runs already, as in a notebook.
    """

    def __init__(self, url: str, **arguments: Any) -> None:
        self._client = AsyncClient(url, **arguments)

    def predict(
        self, clip: ClipLike, *, version: str | None = None, key: str | None = None, min_confidence: float = 0.0
    ) -> Prediction:
        """Hear one clip: a path, bytes, or (samples, rate in Hz); see :meth:`AsyncClient.predict`."""
        return _wait(self._client.predict(clip, version=version, key=key, min_confidence=min_confidence))

    def predict_many(
        self, clips: Iterable[ClipLike], *, concurrency: int = 8, return_exceptions: bool = False, **options: Any
    ) -> Iterator[Prediction | Exception]:
        """Hear many clips, ``concurrency`` at a time, answers in order; see :meth:`AsyncClient.predict_many`."""
        hear = self._client.one_of_many(concurrency, return_exceptions, options)
        with closing(in_order(clips, lambda clip: _begin(hear(clip)), AHEAD * concurrency)) as answers:
            for answer in answers:
                yield _result(answer)

    def listen(self, frames: Iterable[bytes | Array], rate_hz: int, **options: Any) -> Generator[Message, None, None]:
        """Hear live audio: messages come while frames go; see :meth:`AsyncClient.listen`."""
        messages = self._client.listen(frames, rate_hz, **options)
        try:
            while (message := _wait(anext(messages, None))) is not None:
                yield message
        finally:
            _wait(_close(messages))

    def models(self) -> dict[str, Any]:
        """The loaded versions, how traffic goes, and what each says of itself: the answer of ``/models``."""
        return _wait(self._client.models())

    def close(self) -> None:
        """Close the connections."""
        _wait(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _close(messages: AsyncGenerator[Message, None]) -> None:
    """End a stream; after Ctrl-C what waited for its next message is still ending itself."""
    while getattr(messages, "ag_running", False):  # noqa: ASYNC110 - nobody is told when it is over
        await asyncio.sleep(_MOMENT_S)
    await messages.aclose()


@once
def _loop() -> asyncio.AbstractEventLoop:
    """One loop for all clients: gRPC wants no second one in a process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="timbre-client", daemon=True).start()
    return loop


def _begin(work: Coroutine[Any, Any, T]) -> Future[T]:
    return asyncio.run_coroutine_threadsafe(work, _loop())


def _result(future: Future[T]) -> T:
    try:
        return future.result()
    except BaseException:
        future.cancel()  # after Ctrl-C nobody waits for it any more
        raise


def _wait(work: Coroutine[Any, Any, T]) -> T:
    return _result(_begin(work))
