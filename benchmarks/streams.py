"""Live streams as a client with a microphone sends them: a frame when its last sample is there, whatever comes back.

The tests of live audio use the same streams.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import grpc
from google.protobuf.json_format import MessageToDict
from websockets.asyncio.client import connect

from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub

FRAME_S = 0.1
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]  # else all channels of a process share one


class Line(Protocol):
    """A live stream, whatever carries it."""

    def __init__(self, address: str, rate_hz: int) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *error: object) -> None: ...
    async def send(self, frame: bytes) -> None: ...
    async def end(self) -> None: ...
    def received(self) -> AsyncIterator[Any]: ...
    @staticmethod
    def read(received: Any) -> dict[str, Any]:
        """What came, as the WebSocket's JSON has it."""


class SocketLine:
    """``/v1/listen`` at ``ws://HOST:PORT``."""

    def __init__(self, address: str, rate_hz: int) -> None:
        self._connecting = connect(f"ws://{address}/v1/listen?rate_hz={rate_hz}")

    async def __aenter__(self) -> Self:
        self._socket = await self._connecting
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()

    async def send(self, frame: bytes) -> None:
        await self._socket.send(frame)

    async def end(self) -> None:
        await self._socket.send('{"type": "end"}')

    async def received(self) -> AsyncIterator[Any]:
        async for text in self._socket:
            yield text

    @staticmethod
    def read(received: Any) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(received)
        return message


class GrpcLine:
    """``Listen`` at ``HOST:PORT``, on a connection of its own."""

    def __init__(self, address: str, rate_hz: int) -> None:
        self._address, self._start = address, pb.ListenRequest(start=pb.ListenStart(rate_hz=rate_hz))

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._address, options=_OWN_CONNECTION)
        stub: Any = TimbreStub(self._channel)
        self._call = stub.Listen()
        await self._call.write(self._start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def send(self, frame: bytes) -> None:
        await self._call.write(pb.ListenRequest(frame=frame))

    async def end(self) -> None:
        await self._call.done_writing()

    async def received(self) -> AsyncIterator[Any]:
        async for message in self._call:
            yield message

    @staticmethod
    def read(received: Any) -> dict[str, Any]:
        return plain(received)


def plain(message: pb.ListenResponse) -> dict[str, Any]:
    """A message of gRPC's stream under the names that it has in JSON."""
    kind = message.WhichOneof("message") or ""
    fields = MessageToDict(
        getattr(message, kind), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {"type": kind.replace("_", "."), **fields}


@dataclass
class Paced:
    """What became of a stream in real time.

    Attributes:
        late: of each measurement, how long after the frame that completed it was sent it came, seconds.
        overdue: of each frame, how much later than it was due this machine sent it, seconds.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    overdue: list[float] = field(default_factory=list)


def frames_of(pcm: bytes, rate_hz: int) -> list[bytes]:
    """16-bit samples in frames of FRAME_S; the last may be shorter."""
    size = 2 * round(FRAME_S * rate_hz)
    return [pcm[start : start + size] for start in range(0, len(pcm), size)]


async def converse(
    line: type[Line], address: str, frames: Sequence[bytes], rate_hz: int, *, speed: float = 1.0, after_s: float = 0.0
) -> Paced:
    """Send frames of FRAME_S, each when it is due, and read what comes.

    Args:
        speed: how many times as fast as it was spoken.
        after_s: silence before the first, seconds.
    """
    sent: list[float] = []
    paced = Paced()

    async def read(received: AsyncIterator[Any]) -> list[tuple[float, Any]]:
        return [(time.monotonic(), one) async for one in received]

    async with line(address, rate_hz) as stream:
        reader = asyncio.create_task(read(stream.received()))
        began = time.monotonic() + after_s
        for n, frame in enumerate(frames, 1):
            due = began + n * FRAME_S / speed
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            sent.append(time.monotonic())
            paced.overdue.append(sent[-1] - due)
            await stream.send(frame)
        await stream.end()
        came = await reader
    # Read when all is over: what that costs shall delay no measurement.
    for arrived, one in came:
        message = line.read(one)
        paced.messages.append(message)
        if message["type"] == "measurement":
            paced.late.append(arrived - sent[_frames_until(message["end_s"]) - 1])
    return paced


def _frames_until(end_s: float) -> int:
    """How many frames hold the stream's first so many seconds."""
    return math.ceil(round(end_s / FRAME_S, 6))
