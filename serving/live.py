"""Live audio: frames in, messages out, whatever carries them. Utterances are answered by the pipeline, as clips are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from serving import audio
from serving.detector import Listener
from serving.errors import (
    IdleTimeout,
    InvalidFrame,
    InvalidRequest,
    Overloaded,
    RequestError,
    SlowReader,
    Stopping,
    StreamTooLong,
    UnsupportedAudio,
    VersionRetired,
)
from serving.messages import ErrorMessage, Measurement, Message, SessionMessage, UtteranceEnd, UtteranceStart
from serving.metrics import Metrics
from serving.ordered import in_order, next_of
from serving.pipeline import Ask, Pipeline, Route, Waveform
from serving.schemas import ErrorDetail, rounded
from serving.utterances import Cut, Cutter, Ended, Event, Measured, Started

T = TypeVar("T")

_MAX_RATE_HZ = 48 * 1000
_LONGEST_FRAME_S = 1.0
_LEAST_HOP_S = 0.1  # the shortest clip that is heard; each measurement is a forward pass
_AT_A_TIME = 8  # messages of one stream that may wait to be computed or read, before its frames are not taken any more


@dataclass(frozen=True)
class Bounds:
    """What a live stream may take; the settings of the same names."""

    streams: int
    idle_s: float
    max_s: float
    utterance_s: float
    send_s: float


@dataclass(frozen=True)
class Listen:
    """What a client asks of a stream; see :class:`serving.pipeline.Ask`.

    Attributes:
        hop_s: between two measurements, seconds; the model's own hop where None.
        traceparent: the caller's trace, for whoever traces.
    """

    transport: str
    rate_hz: int
    version: str | None = None
    key: str | None = None
    min_confidence: float = 0.0
    hop_s: float | None = None
    traceparent: str | None = None


class Live:
    """The live streams of a process.

    Args:
        limits: of the audio; rates above 48 kHz are not for voices.
    """

    def __init__(self, pipeline: Pipeline, metrics: Metrics, limits: audio.Limits, bounds: Bounds) -> None:
        self._pipeline, self._metrics, self._limits, self._bounds = pipeline, metrics, limits, bounds
        self._open = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def converse(
        self,
        transport: str,
        asked: Callable[[], Awaitable[Listen]],
        frames: AsyncIterator[bytes],
        send: Callable[[Message], Awaitable[None]],
        stopping: asyncio.Event,
    ) -> None:
        """Hear a stream until its frames end, and send what is to be said of it.

        Frames are not taken while messages wait to be read, so neither side's haste fills any memory.

        Args:
            transport: its name in the metrics.
            asked: tells what the client asks of the stream, which counts as open while it has yet to say so.
            frames: 16-bit little-endian mono samples each, one second at most.
            send: returns when the client has room for more.
            stopping: set when the service is told to stop.

        Raises:
            Overloaded: there are as many streams as may be.
            UnsupportedAudio: a rate out of range. UnknownVersion: the pinned version is not loaded.
            InvalidRequest: a hop shorter than any clip may be, or longer than a window.
            InvalidFrame: a frame is not such samples.
            IdleTimeout, StreamTooLong, Stopping, VersionRetired: what was begun has been answered.
            SlowReader: the client does not read.
            RequestError: of ``asked``.
        """
        code = "ok"
        self._count(transport, 1)
        patience = _Patience(stopping, self._bounds)
        try:
            self._admit()
            await self._hear(await patience.wait(asked()), frames, send, patience)
        except RequestError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = "gone"
            raise
        except Exception:
            code = "internal"
            raise
        finally:
            patience.over()
            self._count(transport, -1)
            self._metrics.stream_ends.labels(transport, code).inc()

    async def quiet(self, timeout_s: float) -> None:
        """Return when no stream is open any more, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()

    async def _hear(
        self,
        listen: Listen,
        frames: AsyncIterator[bytes],
        send: Callable[[Message], Awaitable[None]],
        patience: _Patience,
    ) -> None:
        if not self._limits.min_rate_hz <= listen.rate_hz <= _MAX_RATE_HZ:
            raise UnsupportedAudio(
                f"The sample rate is {listen.rate_hz} Hz; live audio has {self._limits.min_rate_hz} to "
                f"{_MAX_RATE_HZ} Hz.",
                rate_hz=listen.rate_hz,
            )
        # Chosen once: the client has been told which emotions it will hear of, and how often.
        route = self._pipeline.route(listen.version, listen.key)
        patience.ends_with(route)
        stream = _Stream(self._pipeline, listen, route, self._bounds.utterance_s)
        if listen.hop_s is not None and not _LEAST_HOP_S <= listen.hop_s <= stream.session.window_s:
            raise InvalidRequest(
                f"hop_s is {listen.hop_s:g}; measurements come every {_LEAST_HOP_S:g} to {stream.session.window_s:g} s."
            )
        await self._told(send, stream.session)
        watched = _watched(frames, patience, listen.rate_hz)
        async with aclosing(in_order(stream.events(watched), stream.message, _AT_A_TIME)) as messages:
            async for message in messages:
                await self._told(send, message)

    def _admit(self) -> None:
        if self._open > self._bounds.streams:
            self._metrics.rejects.labels("streams").inc()
            raise Overloaded(
                f"{self._bounds.streams} live streams are open already. Try again in a while.",
                retry_after_s=5,
                reason="streams",
            )

    async def _told(self, send: Callable[[Message], Awaitable[None]], message: Message) -> None:
        try:
            async with asyncio.timeout(self._bounds.send_s):
                await send(message)
        except TimeoutError:
            raise SlowReader(
                f"Messages were not read for {self._bounds.send_s:g} s. Read them as they come.",
                send_s=self._bounds.send_s,
            ) from None

    def _count(self, transport: str, change: int) -> None:
        self._open += change
        if self._open:
            self._quiet.clear()
        else:
            self._quiet.set()
        self._metrics.streams.labels(transport).inc(change)


class _Stream:
    """One stream: its frames as events, its events as messages."""

    def __init__(self, pipeline: Pipeline, listen: Listen, route: Route, utterance_s: float) -> None:
        self._pipeline, self._listen, self._route, self._utterance_s = pipeline, listen, route, utterance_s
        self._metadata = route.loaded.session.metadata
        windows = self._metadata.windows
        self._hop_s = windows.hop_samples / windows.rate_hz if listen.hop_s is None else listen.hop_s

    @property
    def session(self) -> SessionMessage:
        """The first message."""
        windows = self._metadata.windows
        return SessionMessage(
            rate_hz=self._listen.rate_hz,
            model_version=self._metadata.version,
            hop_s=self._hop_s,
            window_s=windows.window_samples / windows.rate_hz,
            emotions=list(self._metadata.labels),
        )

    async def events(self, frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[Event, None]:
        """What the frames bring; at their end or failure the current utterance ends."""
        cutter = await asyncio.to_thread(self._cutter)
        try:
            async with aclosing(frames):
                async for frame in frames:
                    # In a thread: a second of audio takes the detector several milliseconds.
                    for event in await asyncio.to_thread(cutter.feed, frame):
                        yield event
        except RequestError:
            for event in cutter.finish():
                yield event
            raise
        for event in cutter.finish():
            yield event

    async def message(self, event: Event) -> Message:
        """What is said of an event."""
        match event:
            case Started():
                return UtteranceStart(utterance=event.utterance, start_s=self._seconds(event.start))
            case Measured():
                return await self._measurement(event)
            case Ended():
                return await self._end(event)

    def _cutter(self) -> Cutter:
        rate_hz, windows = self._listen.rate_hz, self._metadata.windows
        cut = Cut(
            rate_hz,
            hop=round(self._hop_s * rate_hz),
            window=round(windows.window_samples * rate_hz / windows.rate_hz),
            longest=round(self._utterance_s * rate_hz),
        )
        return Cutter(Listener(rate_hz), cut)

    async def _measurement(self, event: Measured) -> Message:
        try:
            told = (await self._pipeline.predict(self._ask(event, provisional=True))).prediction
        except RequestError as error:
            return _refusal(error, event.utterance)
        return Measurement(
            utterance=event.utterance,
            start_s=self._seconds(event.start),
            end_s=self._seconds(event.end),
            emotion=told.emotion,
            confidence=told.confidence,
            all_emotions=told.all_emotions,
        )

    async def _end(self, event: Ended) -> Message:
        try:
            answer = await self._pipeline.predict(self._ask(event, provisional=False))
        except RequestError as error:
            return _refusal(error, event.utterance)
        return UtteranceEnd(
            utterance=event.utterance,
            start_s=self._seconds(event.start),
            end_s=self._seconds(event.end),
            start_sample=event.start,
            end_sample=event.end,
            prediction=answer.prediction,
            variant=answer.variant,
            request_id=answer.request_id,
        )

    def _ask(self, event: Measured | Ended, *, provisional: bool) -> Ask:
        listen = self._listen
        clip = Waveform(event.samples, listen.rate_hz)
        return Ask(
            clip,
            listen.transport,
            min_confidence=listen.min_confidence,
            provisional=provisional,
            traceparent=listen.traceparent,
            route=self._route,
        )

    def _seconds(self, sample: int) -> float:
        return rounded(sample / self._listen.rate_hz)


class _Patience:
    """How long a stream is waited for: while it is not silent or open for too long, until it is told to end."""

    def __init__(self, stopping: asyncio.Event, bounds: Bounds) -> None:
        self._bounds, self._clock = bounds, asyncio.get_running_loop().time
        self._ends_at = self._clock() + bounds.max_s
        self._ends: dict[asyncio.Future[Any], RequestError] = {}
        self._ends_at_event(stopping, Stopping.ends_stream())

    def ends_with(self, route: Route) -> None:
        """From now on it ends when that version is retired, too."""
        version = route.choice.version
        error = VersionRetired(
            f"Version {version}, which answered this stream, is no longer routed. Connect again: another one goes on.",
            retry_after_s=1,
        )
        self._ends_at_event(route.loaded.retired, error)

    async def wait(self, coming: Awaitable[T]) -> T:
        """What the client sends next.

        Raises:
            IdleTimeout, StreamTooLong, Stopping, VersionRetired: it is not waited for any more.
        """
        waited, bounds = asyncio.ensure_future(coming), self._bounds
        try:
            left_s = max(0.0, min(bounds.idle_s, self._ends_at - self._clock()))
            await asyncio.wait({waited, *self._ends}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            for told, error in self._ends.items():
                if told.done() and told.result():
                    raise error
            if self._clock() >= self._ends_at:
                raise StreamTooLong(f"The stream has lasted {bounds.max_s:g} s. Begin another.", max_s=bounds.max_s)
            if not waited.done():
                raise IdleTimeout(f"Nothing came for {bounds.idle_s:g} s.", idle_s=bounds.idle_s)
            return waited.result()
        finally:
            waited.cancel()

    def over(self) -> None:
        """Nothing is waited for any more."""
        for told in self._ends:
            told.cancel()

    def _ends_at_event(self, event: asyncio.Event, error: RequestError) -> None:
        self._ends[asyncio.ensure_future(event.wait())] = error


async def _watched(frames: AsyncIterator[bytes], patience: _Patience, rate_hz: int) -> AsyncGenerator[bytes, None]:
    """The frames, until they end, fail or are overdue."""
    longest = 2 * round(_LONGEST_FRAME_S * rate_hz)
    while (frame := await patience.wait(next_of(frames))) is not None:
        if len(frame) % 2 or len(frame) > longest:
            raise InvalidFrame(
                f"A frame of {len(frame)} bytes came; it holds 16-bit mono samples, {longest} bytes at most.",
                bytes=len(frame),
                max_bytes=longest,
            )
        yield frame


def _refusal(error: RequestError, utterance: int) -> ErrorMessage:
    return ErrorMessage(error=ErrorDetail(**error.body()["error"]), utterance=utterance)
