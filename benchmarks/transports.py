"""The ways to ask: HTTP by bare sockets, gRPC by messages that were packed before.

The load generator shares the cores with what it measures: over HTTP a request costs it some 60 microseconds, a tenth of
what a client library takes; over gRPC nothing is packed or unpacked while it measures.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import grpc

from benchmarks.load import OK, SAID
from serving.proto.inference import inference_pb2 as oip
from serving.proto.timbre.v1 import timbre_pb2 as pb

_BOUNDARY = "timbre-benchmark"
_LARGEST = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))


@dataclass(frozen=True)
class Http:
    """Whole requests, head and body, sent in turn.

    Attributes:
        url: of the server; https:// trusts the system's authorities.
    """

    url: str
    requests: Sequence[bytes]

    async def connect(self) -> HttpConnection:
        parts = urlsplit(self.url)
        secure = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if secure else 80)
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
        writer.transport.set_write_buffer_limits(0)  # so that draining ends when all is with the kernel
        return HttpConnection(reader, writer, self.requests)


@dataclass
class HttpConnection:
    """One that is kept alive."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: Sequence[bytes]
    ended: bool = False
    sent_at: float = 0.0
    said: str = ""

    @property
    def closed(self) -> bool:
        return self.ended or self.reader.at_eof()

    async def ask(self, turn: int) -> str:
        self.writer.write(self.requests[turn % len(self.requests)])
        await self.writer.drain()
        self.sent_at = asyncio.get_running_loop().time()
        head = await self.reader.readuntil(b"\r\n\r\n")
        head = head.lower()
        _, told, rest = head.partition(b"content-length:")
        if not told:
            raise ConnectionError("The answer has no Content-Length; no other way to end one is read here.")
        body = await self.reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
        self.ended = b"connection: close" in head
        status = int(head.split(b" ", 2)[1])
        if status == 200:
            return OK
        self.said = body[:SAID].decode(errors="replace")
        return f"http_{status}"

    async def close(self) -> None:
        self.writer.close()


@dataclass(frozen=True)
class Grpc:
    """Packed messages to one method, sent in turn.

    Attributes:
        address: host:port.
    """

    address: str
    method: str
    requests: Sequence[bytes]
    secure: bool = False

    async def connect(self) -> GrpcConnection:
        if self.secure:
            channel = grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(), options=_LARGEST)
        else:
            channel = grpc.aio.insecure_channel(self.address, options=_LARGEST)
        return GrpcConnection(channel, channel.unary_unary(self.method), self.requests)


@dataclass
class GrpcConnection:
    """A channel of its own."""

    channel: grpc.aio.Channel
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    requests: Sequence[bytes]
    closed: bool = False
    sent_at: float = 0.0
    said: str = ""

    async def ask(self, turn: int) -> str:
        self.sent_at = asyncio.get_running_loop().time()  # the library tells no more
        try:
            await self.call(self.requests[turn % len(self.requests)])
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE and "connect" in (error.details() or ""):
                raise ConnectionError(error.details()) from error
            self.said = error.details() or ""
            return f"grpc_{error.code().name.lower()}"
        return OK

    async def close(self) -> None:
        await self.channel.close()


def multipart(url: str, clips: Sequence[bytes], path: str = "/predict", field: str = "file") -> Http:
    """Uploads as curl sends them."""
    bodies = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="clip.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n".encode()
        + clip
        + f"\r\n--{_BOUNDARY}--\r\n".encode()
        for clip in clips
    ]
    return Http(url, [_post(url, path, f"multipart/form-data; boundary={_BOUNDARY}", body) for body in bodies])


def raw(url: str, clips: Sequence[bytes], path: str = "/predict") -> Http:
    """The file as the body."""
    return Http(url, [_post(url, path, "audio/wav", clip) for clip in clips])


def oip_json(url: str, clips: Sequence[bytes], model: str) -> Http:
    """Open Inference Protocol over HTTP, the file in base64."""
    bodies = [
        json.dumps(
            {
                "inputs": [
                    {"name": "audio", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(clip).decode()]}
                    | {"parameters": {"content_type": "base64"}}
                ]
            }
        ).encode()
        for clip in clips
    ]
    return Http(url, [_post(url, f"/v2/models/{model}/infer", "application/json", body) for body in bodies])


def get(url: str, path: str) -> Http:
    """A request without a body."""
    return Http(url, [f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n\r\n".encode()])


def predict_rpc(address: str, clips: Sequence[bytes], *, secure: bool = False) -> Grpc:
    """The service's own gRPC."""
    messages = [pb.PredictRequest(audio=clip).SerializeToString() for clip in clips]
    return Grpc(address, "/timbre.v1.Timbre/Predict", messages, secure)


def oip_rpc(address: str, clips: Sequence[bytes], model: str = "timbre", *, secure: bool = False) -> Grpc:
    """Open Inference Protocol over gRPC, the file as raw contents."""
    messages = []
    for clip in clips:
        request = oip.ModelInferRequest(model_name=model)
        request.inputs.add(name="audio", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(struct.pack("<I", len(clip)) + clip)
        messages.append(request.SerializeToString())
    return Grpc(address, "/inference.GRPCInferenceService/ModelInfer", messages, secure)


def _post(url: str, path: str, content_type: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
