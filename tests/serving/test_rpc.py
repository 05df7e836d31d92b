"""What gRPC's transports do where no client over a socket can make them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from serving.grpc_server import _options
from serving.lifecycle import Lifecycle
from serving.proto.inference import inference_pb2 as pb
from serving.settings import Settings
from serving.transports.fields import Came, unpacker
from serving.transports.oip.grpc import OipGrpcTransport


class AbortedError(Exception):
    """What gRPC raises in a call that is ended with a status."""


class Context:
    """Of a call whose client waits for ten seconds."""

    def __init__(self) -> None:
        self.status: tuple[grpc.StatusCode, str] | None = None
        self.written: list[Any] = []

    def time_remaining(self) -> float:
        return 10.0

    def invocation_metadata(self) -> None:
        return None

    async def write(self, message: Any) -> None:
        self.written.append(message)

    async def abort(self, code: grpc.StatusCode, message: str, _: Any) -> None:
        self.status = (code, message)
        raise AbortedError


async def one() -> AsyncIterator[Came[pb.ModelInferRequest]]:
    yield unpacker(pb.ModelInferRequest, 1)(pb.ModelInferRequest(id="7").SerializeToString())


def stream(monkeypatch: pytest.MonkeyPatch, infer: Any) -> Context:
    """The call over, with this in place of hearing."""
    monkeypatch.setattr(OipGrpcTransport, "_infer", infer)

    async def call() -> Context:
        context: Any = Context()
        with contextlib.suppress(AbortedError):
            await OipGrpcTransport(Lifecycle(), idle_s=60).ModelStreamInfer(one(), context)
        told: Context = context
        return told

    return asyncio.run(call())


def test_a_streams_deadline_is_that_of_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []

    async def infer(
        _: Any, came: Came[pb.ModelInferRequest], timeout_s: float | None, __: Any
    ) -> pb.ModelInferResponse:
        waits.append(timeout_s)
        return pb.ModelInferResponse(id=came.message.id)

    context = stream(monkeypatch, infer)
    assert waits == [10.0]
    assert [message.infer_response.id for message in context.written] == ["7"]
    assert context.status is None


def test_a_fault_in_a_stream_is_told_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    async def infer(*_: Any) -> pb.ModelInferResponse:
        raise ZeroDivisionError("secret")

    context = stream(monkeypatch, infer)
    assert context.status is not None
    code, message = context.status
    assert code is grpc.StatusCode.INTERNAL
    assert message.startswith("internal: ")
    assert "secret" not in message


@pytest.mark.parametrize(("inflight", "streams", "most"), [(128, 100, 128), (4, 100, 100)])
def test_a_connection_has_as_many_messages_on_their_way_as_can_be_answered(
    inflight: int, streams: int, most: int
) -> None:
    options = dict(_options(Settings(max_inflight=inflight, listen_streams=streams)))
    assert options["grpc.max_concurrent_streams"] == most
