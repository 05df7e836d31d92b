"""The way over gRPC: ``timbre.v1.Timbre``."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message as Protobuf
from google.rpc import error_details_pb2, status_pb2

from serving.client.answers import Message, Prediction, message
from serving.client.transport import CONNECT_S, Options, Tls, authorization
from serving.errors import TimbreError, TooLarge, UnexpectedAnswer, Unreachable, refusal
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub

_DETAILS = "grpc-status-details-bin"  # Google's richer error model
_VERSION, _VARIANT, _ID = "x-model-version", "x-timbre-variant", "x-request-id"
_CHANNEL = (
    ("grpc.max_receive_message_length", -1),  # hours of recording have a long timeline
    # Whether and when to try again is decided by the client, which would find a channel that waits for longer.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", round(CONNECT_S * 1e3)),
    ("grpc.enable_retries", 0),
)


class Grpc:
    """One channel to ``grpc://HOST:PORT`` or, with TLS, ``grpcs://HOST:PORT``."""

    def __init__(self, target: str, tls: Tls | None, api_key: str | None = None) -> None:
        self._target, self._tls, self._metadata = target, tls, tuple(authorization(api_key).items())
        self._opened: grpc.aio.Channel | None = None

    async def predict(self, data: bytes, filename: str | None, options: Options) -> Prediction:
        asked = _options(options)
        if filename is not None:
            asked.filename = filename
        call = self._stub().Predict(pb.PredictRequest(audio=data, options=asked), metadata=self._asking(options))
        try:
            told = await call
            trailing = {key: value for key, value in await call.trailing_metadata() if isinstance(value, str)}
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
        return Prediction.of(_dictionary(told), trailing.get(_VARIANT), trailing.get(_ID))

    async def models(self) -> dict[str, Any]:
        try:
            response = await self._stub().Models(pb.ModelsRequest(), metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
        told: dict[str, Any] = _whole(MessageToDict(response.told))
        return told

    async def listen(self, rate_hz: int, options: Options) -> Listen:
        call = self._stub().Listen(metadata=self._asking(options))
        stream = Listen(call, self)
        start = pb.ListenStart(rate_hz=rate_hz, options=_options(options), hop_s=options.hop_s)
        await stream.write(pb.ListenRequest(start=start))
        return stream

    async def close(self) -> None:
        if self._opened:
            await self._opened.close()

    def _asking(self, options: Options) -> tuple[tuple[str, str], ...]:
        """Metadata, with the version that shall answer: a gateway which splits versions sees no message.

        What is no version's name, and so perhaps no metadata either, is left to the service to refuse.
        """
        version = options.version
        pinned = ((_VERSION, version),) if version and version.isascii() and version.isalnum() else ()
        return self._metadata + pinned

    def _stub(self) -> Any:
        """Opened by the first call, because a channel belongs to the loop that it is opened in."""
        if self._opened is None:
            if self._tls is None:
                self._opened = grpc.aio.insecure_channel(self._target, options=_CHANNEL)
            else:
                ca, cert, key = (
                    file.read_bytes() if file else None for file in (self._tls.ca, self._tls.cert, self._tls.key)
                )
                credentials = grpc.ssl_channel_credentials(ca, key, cert)
                self._opened = grpc.aio.secure_channel(self._target, credentials, options=_CHANNEL)
        return TimbreStub(self._opened)

    def error(self, error: grpc.aio.AioRpcError) -> TimbreError:
        """What a status says: our own errors by the code word in its details, others by whether they reached us."""
        code, text = error.code(), error.details() or ""
        for key, value in error.trailing_metadata() or ():
            if key == _DETAILS and isinstance(value, bytes) and (told := _told(value)):
                return told
        if code is grpc.StatusCode.UNAVAILABLE:
            return Unreachable(f"{self._target} cannot be reached: {text}.")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # gRPC's own limit, before the service has seen it
            return TooLarge(f"{text}. Cut the recording, or send it compressed.")
        return UnexpectedAnswer(f"{self._target} answers {code.name}, {text!r}. Is the address right?")


class Listen:
    """A live stream over gRPC."""

    def __init__(self, call: Any, channel: Grpc) -> None:
        self._call, self._channel = call, channel
        self._closed = False

    async def send(self, frame: bytes) -> None:
        await self.write(pb.ListenRequest(frame=frame))

    async def end(self) -> None:
        await self._call.done_writing()

    async def receive(self) -> Message | None:
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._channel.error(error) from error
        except asyncio.CancelledError:
            # gRPC tells the reader of a call that was given up as it tells a task that is cancelled.
            if self._closed:
                return None
            raise
        if response is grpc.aio.EOF:
            return None
        kind = response.WhichOneof("message")
        told = _dictionary(getattr(response, kind))
        if kind == "error":
            told = {"utterance": told.pop("utterance", None), "error": told}
        return message({**told, "type": kind.replace("_", ".")})

    async def close(self) -> None:
        self._closed = True
        self._call.cancel()

    async def write(self, request: pb.ListenRequest) -> None:
        """Send one request.

        Raises:
            Unreachable: the stream has broken; reading says why.
        """
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, grpc.RpcError) as error:
            raise Unreachable(f"The live stream has broken: {error}.") from error


def _options(options: Options) -> pb.Options:
    return pb.Options(model_version=options.version, key=options.key, min_confidence=options.min_confidence)


def _dictionary(told: Protobuf) -> dict[str, Any]:
    """As the JSON of the HTTP answer is; what is not set is left out."""
    plain = MessageToDict(told, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    # JSON has no integers of 64 bits, so that protobuf writes them as strings.
    return {key: int(value) if key.endswith("_sample") else value for key, value in plain.items()}


def _whole(told: Any) -> Any:
    """The same with integers where there are whole numbers: a ``Struct`` holds floats only."""
    match told:
        case dict():
            return {key: _whole(value) for key, value in told.items()}
        case list():
            return [_whole(value) for value in told]
        case float() if told.is_integer():
            return int(told)
    return told


def _told(details: bytes) -> TimbreError | None:
    """The refusal in a status' details; None where there is none of ours."""
    status = status_pb2.Status.FromString(details)
    info, delay = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    more: dict[str, Any] = {}
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(delay):
            more["retry_after_s"] = delay.retry_delay.ToTimedelta().total_seconds()
    if not info.reason:
        return None
    return refusal(info.reason, status.message.removeprefix(f"{info.reason}: "), **{**info.metadata, **more})
