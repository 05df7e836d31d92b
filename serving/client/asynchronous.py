"""The client, for ``async`` code; :mod:`serving.client.synchronous` is the same for the rest."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
)
from contextlib import aclosing, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import SplitResult, urlsplit

from serving.client.answers import Message, Prediction
from serving.client.clips import ClipLike, read
from serving.client.http import Http
from serving.client.live import Frames, begin, converse
from serving.client.retries import Retries
from serving.client.transport import Options, Tls, Transport
from serving.errors import DeadlineExceeded, TimbreError

T = TypeVar("T")

AHEAD = 2
"""Answers that may wait for an earlier one, as multiples of what is asked at a time."""


class AsyncClient:
    """Asks a service.

    Args:
        url: ``http://HOST:PORT`` or ``https://``, with a path where the service has one before it; ``grpc://HOST:PORT``
            or ``grpcs://``.
        timeout_s: longest time from a call to its answer, all tries and waits together, seconds.
        retries: how often and how soon what is safe to be tried again is tried again.
        api_key: who asks, where the service wants to know.
        ca, cert, key: files for https:// and grpcs://: an authority of one's own, a client's certificate and its key.

    Raises:
        ValueError: the address is of another kind, an API key is none, or a certificate comes without its key.
        OSError: a file cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 60.0,
        retries: Retries | None = None,
        api_key: str | None = None,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
    ) -> None:
        self._timeout_s, self._retries = timeout_s, retries or Retries()
        tls = Tls(*(Path(file) if file else None for file in (ca, cert, key)))
        self._transport = _transport(url, tls, api_key)

    async def predict(
        self, clip: ClipLike, *, version: str | None = None, key: str | None = None, min_confidence: float = 0.0
    ) -> Prediction:
        """Hear one clip.

        Args:
            clip: path of an audio file, its bytes, or (samples, rate in Hz); samples are (T,) or (T, channels), float
                within -1 to 1 or integer.
            version: the version that shall answer; any by its weight where None.
            key: any user or session id; it always gets the same variant.
            min_confidence: below it no emotion is named.

        Raises:
            OSError: the file cannot be read.
            TypeError, ValueError: the samples are of a kind or shape that is no audio.
            RequestError: the service refuses; each code has a class in ``serving.errors``.
            Unreachable: no connection to the service.
            UnexpectedAnswer: what answers is not the service.
        """
        data, name = await asyncio.to_thread(read, clip)
        options = Options(version, key, min_confidence)
        return await self._try(lambda: self._transport.predict(data, name, options))

    async def predict_many(
        self, clips: Iterable[ClipLike], *, concurrency: int = 8, return_exceptions: bool = False, **options: Any
    ) -> AsyncIterator[Prediction | Exception]:
        """Hear many clips, ``concurrency`` at a time; answers come in the clips' order, as soon as they can.

        Clips are taken from the iterable, and read, as their turn comes.

        Args:
            return_exceptions: what cannot be answered is yielded as its error, and the rest goes on; else raised.
            options: as of :meth:`predict`.
        """
        hear = self.one_of_many(concurrency, return_exceptions, options)
        with closing(in_order(clips, lambda clip: asyncio.create_task(hear(clip)), AHEAD * concurrency)) as answers:
            for answer in answers:
                yield await answer

    async def listen(
        self,
        frames: Frames,
        rate_hz: int,
        *,
        version: str | None = None,
        key: str | None = None,
        min_confidence: float = 0.0,
        hop_s: float | None = None,
    ) -> AsyncGenerator[Message, None]:
        """Hear live audio: messages come while frames go.

        Args:
            frames: mono samples as they are recorded, about 100 ms each, one second at most: 16-bit little-endian
                bytes, or arrays (T,) of int16 or of floats within -1 to 1. A plain iterable is asked in a thread, and
                may block.
            rate_hz: of the frames, 8000 to 48000.
            version, key, min_confidence: as of :meth:`predict`; every utterance is answered by one version.
            hop_s: between two measurements of an utterance; the model's own hop where None.

        Raises:
            RequestError: the service refuses the stream, or ends it. Only connecting is tried again: frames that have
                been sent are gone.
            Unreachable: no connection to the service, or it broke.
        """
        options = Options(version, key, min_confidence, hop_s)
        stream, first = await self._try(lambda: begin(self._transport, rate_hz, options))
        async with aclosing(converse(stream, first, frames)) as messages:
            async for message in messages:
                yield message

    async def models(self) -> dict[str, Any]:
        """The loaded versions, how traffic goes, and what each says of itself: the answer of ``/models``.

        Raises:
            RequestError, Unreachable, UnexpectedAnswer: as of :meth:`predict`.
        """
        return await self._try(self._transport.models)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def one_of_many(
        self, concurrency: int, return_exceptions: bool, options: dict[str, Any]
    ) -> Callable[[ClipLike], Coroutine[Any, Any, Prediction | Exception]]:
        """What :meth:`predict_many` does with each clip: wait for one of ``concurrency`` permits, then predict."""
        permits = asyncio.Semaphore(concurrency)

        async def hear(clip: ClipLike) -> Prediction | Exception:
            async with permits:
                try:
                    return await self.predict(clip, **options)
                except (TimbreError, OSError, TypeError, ValueError) as error:
                    if return_exceptions:
                        return error
                    raise

        return hear

    async def _try(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask, and again where that is safe, within the time there is."""

        async def once() -> T:
            return await ask()

        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._retries.within(self._timeout_s)(once)
        except TimeoutError:
            raise DeadlineExceeded(
                f"No answer within {self._timeout_s:g} s. Allow for more with timeout_s, or send less at a time.",
                timeout_s=self._timeout_s,
            ) from None


class Cancellable(Protocol):
    """A task, or a future of another thread."""

    def cancel(self) -> bool: ...


C = TypeVar("C", bound=Cancellable)
A = TypeVar("A")


def in_order(items: Iterable[A], begin: Callable[[A], C], most: int) -> Generator[C, None, None]:
    """Begin up to ``most`` at a time and hand them out in their order; what is left over is cancelled."""
    begun: deque[C] = deque()
    try:
        for item in items:
            begun.append(begin(item))
            if len(begun) >= most:
                yield begun.popleft()
        while begun:
            yield begun.popleft()
    finally:
        for task in begun:
            task.cancel()


def _transport(url: str, tls: Tls, api_key: str | None) -> Transport:
    parts = _address(url)
    match parts.scheme:
        case "http" | "https":
            return Http(url, tls, api_key)
        case _:
            from serving.client.grpc import Grpc  # dear, and only for who wants it

            return Grpc(parts.netloc, tls if parts.scheme == "grpcs" else None, api_key)


def _address(url: str) -> SplitResult:
    """The parts of a service's address.

    Raises:
        ValueError: it is of another kind, names no host, or a port that does not exist.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "grpc", "grpcs") and parts.hostname and parts.port != 0:
            return parts
        why = ""
    except ValueError as error:  # of a port, or of an address of IPv6
        why = f" ({error})"
    raise ValueError(
        f"{url!r} is no address of a service{why}; http://HOST:3000, https://, grpc://HOST:3001 and grpcs:// are."
    )
