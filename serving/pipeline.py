"""The one way of a request, whatever transport it came by: permit, route, decode, cut, infer, aggregate."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from serving import audio
from serving.aggregate import prediction, whole_clip
from serving.batches import Batched
from serving.errors import DeadlineExceeded, InternalError, Overloaded, RequestError
from serving.feedback import Feedback
from serving.formats import QUICK_BYTES, Samples, Source, is_quick, open_source, source_of_samples
from serving.metrics import CANCELLED, NOBODY, Input, Metrics
from serving.places import Place, Places
from serving.registry import Loaded, Registry
from serving.room import Holding, Room, Take
from serving.router import Choice, choose
from serving.schemas import Prediction, Timing, milliseconds
from serving.shadow import Shadowing
from serving.tracing import Tracing

T = TypeVar("T")

_CLIPPED = 0.999

MOST_CLIPS = 256
"""Clips that one request of a transport that takes several may bring."""
AT_A_TIME = 8
"""Of those, how many ask for a permit at a time: one such request shall not take them all."""


@dataclass(frozen=True)
class Upload:
    """One encoded file as a client sent it."""

    data: bytes
    filename: str | None

    def open(self) -> Source:
        """See ``formats.open_source``, and what it raises."""
        return open_source(self.data)

    def is_quick(self, rate_hz: int) -> bool:
        """Whether decoding takes a fraction of a millisecond."""
        return is_quick(self.data, rate_hz)


@dataclass(frozen=True)
class Waveform:
    """Samples as a client sent them: float32 (T,), mono, full scale = 1."""

    samples: Samples
    rate_hz: int
    filename: str | None = None

    def open(self) -> Source:
        """Raises EmptyAudio where there are none."""
        return source_of_samples(self.samples, self.rate_hz)

    def is_quick(self, rate_hz: int) -> bool:
        """Whether there is nothing to resample and not much to look at."""
        return self.rate_hz == rate_hz and self.samples.nbytes <= QUICK_BYTES


@dataclass(frozen=True)
class Route:
    """Who answers, chosen from the routes as they were."""

    choice: Choice
    loaded: Loaded


@dataclass(frozen=True)
class Ask:
    """What a transport hands over.

    Attributes:
        transport: by which it came, for the metrics.
        version: the version that the client pinned.
        key: user or session that always gets the same variant.
        min_confidence: below it no emotion is named.
        timeout_s: how long the client waits, where it says so.
        provisional: the middle of something whose whole will be asked for too: heard however quiet it is, and neither
            counted among the answers, nor for the shadow or feedback.
        traceparent: the caller's trace, for whoever traces.
        place: what was kept for it on its way in.
        body: what its upload counts in memory, for as long as anybody has it.
        route: who answers, where that was chosen before; ``version`` and ``key`` say nothing then.
    """

    upload: Upload | Waveform
    transport: str
    version: str | None = None
    key: str | None = None
    min_confidence: float = 0.0
    timeout_s: float | None = None
    provisional: bool = False
    traceparent: str | None = None
    place: Place | None = None
    body: Holding | None = None
    route: Route | None = None


@dataclass(frozen=True)
class Answer:
    """What a transport sends back; a provisional answer has no id."""

    prediction: Prediction
    variant: str
    request_id: str


class Pipeline:
    """Answers uploads with the routed versions.

    Args:
        limits: what audio is accepted.
        permits: requests that may be answered at a time.
        timeout_s: longest time from the upload's last byte to the answer.
        decoders: recordings that are decoded at a time.
        decoded: room for decoded audio.
        tracing: where spans go.
    """

    def __init__(
        self,
        registry: Registry,
        limits: audio.Limits,
        metrics: Metrics,
        feedback: Feedback,
        *,
        permits: int,
        timeout_s: float,
        decoders: int,
        decoded: Room,
        tracing: Tracing,
    ) -> None:
        self.registry, self.places = registry, Places()
        self._limits, self._metrics, self._feedback = limits, metrics, feedback
        self._permits, self._timeout_s, self._decoded, self._tracing = permits, timeout_s, decoded, tracing
        self._inflight = 0
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._shadowing = Shadowing(metrics, busy=lambda: self._inflight > 0)
        metrics.permits.set(permits)

    @property
    def full(self) -> bool:
        """Every permit is taken, or will be in a moment: a transport need not read a body that will be refused."""
        return self._inflight + self.places.kept >= self._permits

    def expect_room(self, place: Place | None = None) -> None:
        """Let a request come in, with a place that was kept for it or without.

        Raises:
            Overloaded: all permits are taken.
        """
        if self.full and not (place is not None and place.kept):
            raise self.overloaded()

    def route(self, version: str | None, key: str | None) -> Route:
        """Who answers now, for whoever asks more than once and wants one and the same; see :func:`choose`.

        Raises:
            UnknownVersion: the pinned version is not loaded.
        """
        fleet = self.registry.fleet
        choice = choose(fleet.routes, version, key)
        return Route(choice, fleet.versions[choice.version])

    async def predict(self, ask: Ask) -> Answer:
        """Answer one upload.

        Raises:
            Overloaded: all permits are taken, the queue is full, there is no room for more decoded audio, or all
                that decode the format stay busy.
            UnknownVersion: the pinned version is not loaded.
            DeadlineExceeded: no answer in time.
            RequestError: the audio is refused; see ``audio.decode`` and ``audio.windows``.
        """
        with self._tracing.request(ask.transport, ask.traceparent) as span:
            answer = await self._admit(ask)
            timing = answer.prediction.timing_ms
            stages_s = {name: getattr(timing, name) / 1e3 for name in ("decode", "queue", "inference")}
            span.answered(answer.variant, answer.prediction.model_version, stages_s)
            return answer

    async def _admit(self, ask: Ask) -> Answer:
        if ask.place:
            ask.place.give_up()
        choice: Choice | None = None
        try:
            with self._permit(), self._decoded.holding() as held:
                route = ask.route or self.route(ask.version, ask.key)
                choice = route.choice
                return await self._answer(ask, choice, route.loaded, held)
        except RequestError as error:
            self.refused(error, ask.transport, choice)
            raise
        except asyncio.CancelledError:
            if not ask.provisional:
                self._count(CANCELLED, ask.transport, choice)
            raise
        except Exception:
            self._count(InternalError.code, ask.transport, choice)
            raise

    def holding(self) -> Holding:
        """For the decoded audio of one request that keeps it longer than :meth:`aside` lasts."""
        return self._decoded.holding()

    async def aside(self, work: Callable[[Take], T], held: Holding, body: Holding) -> T:
        """Other work on an upload, with a permit and in a decoder's thread as decoding is.

        Args:
            work: is told what to ask before it keeps decoded audio.
            held: what that is to count for, of :meth:`holding`.
            body: what the upload counts in memory, for as long as the work has it.

        Raises:
            Overloaded: all permits are taken, or there is no room for more decoded audio.
            DeadlineExceeded: it was not done in time.
        """
        with self._permit():
            deadline = asyncio.get_running_loop().time() + self._timeout_s
            return await self._in_decoder(work, held, deadline, body)

    def turned_away(self, transport: str) -> Overloaded | None:
        """The refusal, which counts, of a clip that comes while there is no room; None where there is."""
        if not self.full:
            return None
        error = self.overloaded()
        self.refused(error, transport)
        return error

    def overloaded(self) -> Overloaded:
        """The refusal of a request for which there is no permit."""
        return Overloaded(
            f"{self._permits} requests are being answered already. Try again in a second.",
            retry_after_s=1,
            reason="permits",
        )

    def refused(self, error: RequestError, transport: str, choice: Choice | None = None) -> None:
        """Count a request that is refused, here or before it got here."""
        self._count(error.code, transport, choice)
        if isinstance(error, Overloaded):
            self._metrics.rejects.labels(error.details["reason"]).inc()

    def left(self, transport: str) -> None:
        """Count a request whose client went away before all of it was here."""
        self._count(CANCELLED, transport, None)

    async def close(self) -> None:
        """Finish what was begun and let go of the models."""
        self._shadowing.close()
        await self.registry.close()
        self._decoders.shutdown(wait=False)
        await asyncio.to_thread(self._tracing.close)

    async def _answer(self, ask: Ask, choice: Choice, loaded: Loaded, held: Holding) -> Answer:
        timeout_s = self._timeout_s if ask.timeout_s is None else min(ask.timeout_s, self._timeout_s)
        arrived, deadline = time.perf_counter(), asyncio.get_running_loop().time() + timeout_s
        metadata = loaded.session.metadata
        heard = await self._hear(ask, loaded, held, deadline)
        if not ask.provisional:
            self._metrics.heard(heard.input)
        batched = await loaded.batcher.submit(heard.windows, deadline)
        timing = Timing(
            decode=milliseconds(heard.seconds),
            queue=milliseconds(batched.queue_s + batched.batch_s),
            inference=milliseconds(batched.inference_s),
            total=milliseconds(time.perf_counter() - arrived),
        )
        told = prediction(
            batched.probabilities,
            heard.windows,
            heard.clip,
            metadata,
            timing,
            filename=ask.upload.filename,
            min_confidence=ask.min_confidence,
        )
        if ask.provisional:
            return Answer(told, choice.variant, "")
        clip = whole_clip(batched.probabilities)
        best = int(clip.argmax())
        emotion = metadata.labels[best]
        self._measure(ask, choice, clip, emotion, timing, batched)
        self._shadowing.offer(self.registry.fleet, loaded, heard.windows, best)
        request_id = self._feedback.issue(choice.variant, choice.version, emotion)
        return Answer(told, choice.variant, request_id)

    async def _hear(self, ask: Ask, loaded: Loaded, held: Holding, deadline: float) -> _Heard:
        """Decode: in a thread; or here, where it takes a fraction of a millisecond and the thread would cost more."""
        if ask.upload.is_quick(loaded.session.metadata.windows.rate_hz):
            return self._decode(ask, loaded, held)
        return await self._in_decoder(functools.partial(self._decode, ask, loaded), held, deadline, ask.body)

    async def _in_decoder(self, work: Callable[[Take], T], held: Holding, deadline: float, body: Holding | None) -> T:
        def holding() -> T:
            with held, body or nullcontext():  # while the thread is at it, whoever has stopped waiting
                return work(held)

        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.get_running_loop().run_in_executor(self._decoders, holding)
        except TimeoutError:
            raise DeadlineExceeded("Decoding took longer than the request may. Send a shorter clip.") from None

    def _decode(self, ask: Ask, loaded: Loaded, take: Take) -> _Heard:
        started = time.perf_counter()
        spec = loaded.session.metadata.windows
        clip = audio.read(ask.upload.open(), spec.rate_hz, self._limits, take)
        windows = audio.windows(clip.samples, spec, silent_too=ask.provisional)
        power = float(np.einsum("t,t->", clip.samples, clip.samples)) / len(clip.samples)
        level = 10 * np.log10(max(power, 1e-12))
        clipped = max(float(clip.samples.max()), -float(clip.samples.min())) >= _CLIPPED
        what = Input(clip.duration_s, clip.source_rate_hz, level, clipped)
        return _Heard(clip, windows, what, time.perf_counter() - started)

    def _measure(
        self, ask: Ask, choice: Choice, clip: np.ndarray, emotion: str, timing: Timing, batched: Batched
    ) -> None:
        who = (choice.variant, choice.version)
        for stage, seconds in (
            ("decode", timing.decode / 1e3),
            ("queue", batched.queue_s),
            ("batch", batched.batch_s),
            ("inference", timing.inference / 1e3),
            ("total", timing.total / 1e3),
        ):
            self._metrics.stages.labels(*who, stage).observe(seconds)
        second, first = np.partition(clip, -2)[-2:]
        self._metrics.emotions.labels(*who, emotion).inc()
        self._metrics.confidence.labels(*who).observe(float(first))
        self._metrics.margin.labels(*who).observe(float(first - second))
        self._count("ok", ask.transport, choice)

    def _count(self, code: str, transport: str, choice: Choice | None) -> None:
        variant, version = (choice.variant, choice.version) if choice else (NOBODY, NOBODY)
        self._metrics.requests.labels(transport, variant, version, code).inc()

    @contextmanager
    def _permit(self) -> Iterator[None]:
        """One of the permits; raises Overloaded where there is none."""
        self.expect_room()
        self._inflight += 1
        self._metrics.inflight.set(self._inflight)
        try:
            yield
        finally:
            self._inflight -= 1
            self._metrics.inflight.set(self._inflight)


@dataclass(frozen=True)
class _Heard:
    """A decoded upload."""

    clip: audio.Clip
    windows: audio.Windows
    input: Input
    seconds: float
