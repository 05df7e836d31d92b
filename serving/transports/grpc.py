"""gRPC for people: service ``timbre.v1.Timbre``."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

import grpc

from serving.audio import pcm16
from serving.errors import InvalidFrame, InvalidRequest, MissingFile, RequestError, TooManyFiles, too_large
from serving.lifecycle import Lifecycle
from serving.live import Listen
from serving.messages import ErrorMessage, Measurement, Message, SessionMessage, UtteranceEnd, UtteranceStart
from serving.ordered import in_order
from serving.pipeline import AT_A_TIME, MOST_CLIPS, Answer, Ask, Upload, Waveform
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreServicer, add_TimbreServicer_to_server
from serving.schemas import Prediction
from serving.transports.faults import fault
from serving.transports.fields import Came, unpacker
from serving.transports.rpc import ID, Context, refuse, refusing, traceparent, until_stopped, waits_s

SERVICE = "timbre.v1.Timbre"
TRANSPORT = "grpc"
"""This transport's name in the metrics."""

_LAST_WORD_S = 5.0
_MOST_FIELDS = 64  # of a message with all that is in it; a clip with every option has eight

T = TypeVar("T")

VERSION, VARIANT = "x-model-version", "x-timbre-variant"


class GrpcTransport(TimbreServicer):
    """The service's calls.

    What brings audio is looked at before it is unpacked; the generated types know no such thing.

    Args:
        idle_s: for which a stream of clips may say nothing.
    """

    def __init__(self, lifecycle: Lifecycle, idle_s: float) -> None:
        self._lifecycle, self._idle_s = lifecycle, idle_s

    @refusing
    async def Predict(  # type: ignore[override]
        self, came: Came[pb.PredictRequest], context: Context
    ) -> pb.Prediction:
        answer = await self._predict(came, context)
        context.set_trailing_metadata(
            ((VERSION, answer.prediction.model_version), (VARIANT, answer.variant), (ID, answer.request_id))
        )
        return _prediction(answer.prediction)

    @refusing
    async def PredictMany(  # type: ignore[override]
        self, requests: AsyncIterator[Came[pb.PredictRequest]], context: Context
    ) -> pb.PredictManyResponse:
        async def answered(came: Came[pb.PredictRequest]) -> pb.Answer:
            try:
                answer = await self._predict(came, context)
            except RequestError as error:
                return pb.Answer(error=_error(error.code, error.message, error.details))
            told = _prediction(answer.prediction)
            return pb.Answer(prediction=told, variant=answer.variant, request_id=answer.request_id)

        response = pb.PredictManyResponse()
        coming = until_stopped(requests, self._lifecycle.told_to_stop, self._idle_s)
        async with aclosing(in_order(_at_most(coming), answered, AT_A_TIME)) as answers:
            async for answer in answers:
                response.answers.append(answer)
        return response

    # The generated type knows generators only; a coroutine that writes shows when the client has room for more.
    async def Listen(  # type: ignore[override]
        self, requests: AsyncIterator[Came[pb.ListenRequest]], context: Context
    ) -> None:
        writing: asyncio.Future[None] | None = None

        async def send(message: Message) -> None:
            nonlocal writing
            writing = asyncio.ensure_future(context.write(_message(message)))
            writing.add_done_callback(_looked_at)
            await asyncio.shield(writing)

        try:
            live, stopping = self._lifecycle.get().live, self._lifecycle.told_to_stop
            parent = traceparent(context)
            await live.converse(TRANSPORT, lambda: _start(requests, parent), _frames(requests), send, stopping)
        except RequestError as error:
            # No status can pass a message that waits for room. Where no room comes, the stream is reset.
            if writing is not None and not writing.done():
                await asyncio.wait({writing}, timeout=_LAST_WORD_S)
                if not writing.done():
                    raise asyncio.CancelledError from error
            await refuse(context, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told that it is ours
            await refuse(context, fault(error, traceparent(context)))

    @refusing
    async def Models(self, _: pb.ModelsRequest, __: Context) -> pb.ModelsResponse:
        response = pb.ModelsResponse()
        response.told.update(self._lifecycle.get().registry.told().model_dump(mode="json"))
        return response

    async def _predict(self, came: Came[pb.PredictRequest], context: Context) -> Answer:
        parts = self._lifecycle.get()
        with parts.uploads.holding() as take:
            try:
                request = came.message
                # The clip stands there once more; samples as float32, which is twice as long.
                take(came.kept_bytes + came.wire_bytes + len(request.pcm.samples))
                ask = _ask(request, parts.settings.max_upload_bytes, waits_s(context), traceparent(context))
                ask = dataclasses.replace(ask, body=take)
            except RequestError as error:
                parts.pipeline.refused(error, TRANSPORT)
                raise
            return await parts.pipeline.predict(ask)


def add_to_server(transport: GrpcTransport, server: grpc.aio.Server) -> None:
    """As the generated function does, but for messages that are looked at before they are unpacked."""
    add_TimbreServicer_to_server(transport, server)
    clip, heard = unpacker(pb.PredictRequest, _MOST_FIELDS), unpacker(pb.ListenRequest, _MOST_FIELDS)
    one = grpc.unary_unary_rpc_method_handler(transport.Predict, clip, pb.Prediction.SerializeToString)
    many = grpc.stream_unary_rpc_method_handler(transport.PredictMany, clip, pb.PredictManyResponse.SerializeToString)
    live = grpc.stream_stream_rpc_method_handler(transport.Listen, heard, pb.ListenResponse.SerializeToString)
    server.add_registered_method_handlers(SERVICE, {"Predict": one, "PredictMany": many, "Listen": live})


def _looked_at(writing: asyncio.Future[None]) -> None:
    """A write fails where the client has left; the call is told so too, and asyncio would log that nobody looked."""
    if not writing.cancelled():
        writing.exception()


def _ask(request: pb.PredictRequest, max_bytes: int, timeout_s: float | None, parent: str | None) -> Ask:
    """What the pipeline is asked.

    Raises:
        MissingFile: there is no input. TooLarge: more than ``max_bytes``.
        InvalidRequest: an option out of range. UnsupportedAudio: half a sample is left over.
    """
    options = request.options
    size = len(request.audio) + len(request.pcm.samples)
    if size > max_bytes:
        raise too_large(max_bytes)
    filename = options.filename if options.HasField("filename") else None
    match request.WhichOneof("input"):
        case "audio":
            clip: Upload | Waveform = Upload(request.audio, filename)
        case "pcm":
            clip = Waveform(pcm16(request.pcm.samples), request.pcm.rate_hz, filename)
        case _:
            raise MissingFile("The request has neither `audio`, an encoded file, nor `pcm`, samples and their rate.")
    version, key, min_confidence = _options(options)
    return Ask(clip, TRANSPORT, version, key, min_confidence, timeout_s, traceparent=parent)


def _options(options: pb.Options) -> tuple[str | None, str | None, float]:
    """Version, key and min_confidence.

    Raises:
        InvalidRequest: min_confidence is no number from 0 to 1.
    """
    if not 0 <= options.min_confidence <= 1:
        raise InvalidRequest(f"min_confidence must be a number from 0 to 1; got {options.min_confidence:g}.")
    version = options.model_version if options.HasField("model_version") else None
    return version, options.key or None, options.min_confidence


async def _at_most(requests: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    count = 0
    async with aclosing(requests):
        async for request in requests:
            count += 1
            if count > MOST_CLIPS:
                raise TooManyFiles(f"Over {MOST_CLIPS} clips came in one call. Send the rest in another.", files=count)
            yield request


async def _start(requests: AsyncIterator[Came[pb.ListenRequest]], parent: str | None) -> Listen:
    came = await anext(requests, None)
    if came is None or not (first := came.message).HasField("start"):
        raise InvalidRequest("A stream begins with `start`, which tells the rate of the frames.")
    version, key, min_confidence = _options(first.start.options)
    hop_s = first.start.hop_s if first.start.HasField("hop_s") else None
    return Listen(TRANSPORT, first.start.rate_hz, version, key, min_confidence, hop_s, parent)


async def _frames(requests: AsyncIterator[Came[pb.ListenRequest]]) -> AsyncIterator[bytes]:
    async for came in requests:
        request = came.message
        if not request.HasField("frame"):
            what = request.WhichOneof("message") or "nothing"
            raise InvalidFrame(f"A message with {what} in it came. After `start` each holds a `frame` of samples.")
        yield request.frame


def _prediction(told: Prediction) -> pb.Prediction:
    return pb.Prediction(
        emotion=told.emotion,
        confidence=told.confidence,
        all_emotions=told.all_emotions,
        filename=told.filename,
        model_version=told.model_version,
        duration_s=told.duration_s,
        segments=[pb.Segment(**segment.model_dump()) for segment in told.segments],
        timing_ms=pb.Timing(**told.timing_ms.model_dump()),
    )


def _error(code: str, message: str, details: dict[str, Any], utterance: int | None = None) -> pb.Error:
    return pb.Error(code=code, message=message, retry_after_s=details.get("retry_after_s"), utterance=utterance)


def _message(message: Message) -> pb.ListenResponse:
    match message:
        case SessionMessage():
            return pb.ListenResponse(session=pb.Session(**message.model_dump(exclude={"type"})))
        case UtteranceStart():
            return pb.ListenResponse(utterance_start=pb.UtteranceStart(**message.model_dump(exclude={"type"})))
        case Measurement():
            return pb.ListenResponse(measurement=pb.Measurement(**message.model_dump(exclude={"type"})))
        case UtteranceEnd():
            plain = message.model_dump(exclude={"type", "prediction"})
            return pb.ListenResponse(utterance_end=pb.UtteranceEnd(**plain, prediction=_prediction(message.prediction)))
        case ErrorMessage():
            detail = message.error
            extra = detail.model_extra or {}
            return pb.ListenResponse(error=_error(detail.code, detail.message, extra, message.utterance))
