"""The Open Inference Protocol over gRPC: service ``inference.GRPCInferenceService``."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import ParseDict

from serving.errors import InvalidRequest, MethodNotAllowed, NotFound, RequestError, UnknownVersion, too_large
from serving.lifecycle import Lifecycle
from serving.ordered import in_order
from serving.pipeline import AT_A_TIME, MOST_CLIPS
from serving.proto.inference import inference_pb2 as pb
from serving.proto.inference.inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from serving.transports.fields import Came, unpacker
from serving.transports.oip.model import LOADING, SERVER, STATISTICS, Infer, Inferred, Model, beside
from serving.transports.oip.tensors import BYTES, Tensor, Wanted, check, from_raw, to_raw
from serving.transports.rpc import Context, refusing, traceparent, until_stopped, waits_s

SERVICE = "inference.GRPCInferenceService"
TRANSPORT = "oip-grpc"
"""This transport's name in the metrics."""

_OVERHEAD_BYTES = 1 << 16  # names, shapes and parameters around the clips
_MOST_FIELDS = 4096  # of a message with all in it; 256 clips have one each, or all of their samples together

Asked = Came[pb.ModelInferRequest]


class OipGrpcTransport(GRPCInferenceServiceServicer):
    """The protocol's calls.

    What brings clips is looked at before it is unpacked; the generated types know no such thing.

    Args:
        idle_s: for which a stream of clips may say nothing.
    """

    def __init__(self, lifecycle: Lifecycle, idle_s: float) -> None:
        self._lifecycle, self._idle_s, self._model = lifecycle, idle_s, Model(lifecycle)

    async def ServerLive(self, _: pb.ServerLiveRequest, __: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _: pb.ServerReadyRequest, __: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=await self._model.server_ready())

    async def ServerMetadata(self, _: pb.ServerMetadataRequest, __: Context) -> pb.ServerMetadataResponse:
        return ParseDict(SERVER, pb.ServerMetadataResponse())

    @refusing
    async def ModelReady(self, request: pb.ModelReadyRequest, _: Context) -> pb.ModelReadyResponse:
        try:
            return pb.ModelReadyResponse(ready=await self._model.ready(request.name, request.version))
        except (NotFound, UnknownVersion):
            return pb.ModelReadyResponse(ready=False)  # as Triton answers

    @refusing
    async def ModelMetadata(self, request: pb.ModelMetadataRequest, _: Context) -> pb.ModelMetadataResponse:
        told = self._model.metadata(request.name, request.version)
        for tensor in told["outputs"]:
            parameters = tensor.get("parameters", {})
            tensor["parameters"] = {name: {"string_param": value} for name, value in parameters.items()}
        return ParseDict(told, pb.ModelMetadataResponse())

    @refusing
    async def ModelConfig(self, request: pb.ModelConfigRequest, _: Context) -> pb.ModelConfigResponse:
        return ParseDict({"config": self._model.config(request.name, request.version)}, pb.ModelConfigResponse())

    @refusing
    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, _: Context) -> pb.RepositoryIndexResponse:
        return ParseDict({"models": await self._model.index(request.ready)}, pb.RepositoryIndexResponse())

    @refusing
    async def ModelInfer(  # type: ignore[override]
        self, came: Asked, context: Context
    ) -> pb.ModelInferResponse:
        return await self._infer(came, waits_s(context), traceparent(context))

    # The generated type knows generators only; a coroutine that writes can end with a refusal as the other calls do.
    @refusing
    async def ModelStreamInfer(  # type: ignore[override]
        self, requests: AsyncIterator[Asked], context: Context
    ) -> None:
        """Answers in the order of the requests; one that is refused does not end the stream."""
        parent = traceparent(context)

        async def answered(came: Asked) -> pb.ModelStreamInferResponse:
            try:
                told = await self._infer(came, waits_s(context), parent)
                return pb.ModelStreamInferResponse(infer_response=told)
            except RequestError as error:
                which = pb.ModelInferResponse()
                if isinstance(request := came.unpacked, pb.ModelInferRequest):
                    which.id, which.model_name = request.id, request.model_name
                return pb.ModelStreamInferResponse(error_message=error.line, infer_response=which)

        coming = until_stopped(requests, self._lifecycle.told_to_stop, self._idle_s)
        async with aclosing(in_order(coming, answered, AT_A_TIME)) as answers:
            async for answer in answers:
                await context.write(answer)

    # Of messages that nobody unpacks, since no answer hangs on what they say.
    @refusing
    async def ModelStatistics(self, _: bytes, __: Context) -> bytes:
        raise MethodNotAllowed(STATISTICS)

    @refusing
    async def RepositoryModelLoad(self, _: bytes, __: Context) -> bytes:
        raise MethodNotAllowed(LOADING)

    async def _infer(self, came: Asked, timeout_s: float | None, parent: str | None) -> pb.ModelInferResponse:
        parts = self._lifecycle.get()
        with parts.uploads.holding() as take:
            try:
                request, size = came.message, came.wire_bytes
                if size > parts.settings.max_upload_bytes + _OVERHEAD_BYTES:
                    raise too_large(parts.settings.max_upload_bytes)
                take(came.kept_bytes + size)  # its clips stand there once more
                infer = await beside(size, _parse, request, parent)
                infer = dataclasses.replace(infer, body=take)
            except RequestError as error:
                parts.pipeline.refused(error, TRANSPORT)
                raise
            return _answer(request, await self._model.infer(infer, TRANSPORT, timeout_s))


def add_to_server(transport: OipGrpcTransport, server: grpc.aio.Server) -> None:
    """As the generated function does, but for messages that are looked at before they are unpacked."""
    add_GRPCInferenceServiceServicer_to_server(transport, server)
    clips = unpacker(pb.ModelInferRequest, _MOST_FIELDS)
    infer = grpc.unary_unary_rpc_method_handler(transport.ModelInfer, clips, pb.ModelInferResponse.SerializeToString)
    stream = grpc.stream_stream_rpc_method_handler(
        transport.ModelStreamInfer, clips, pb.ModelStreamInferResponse.SerializeToString
    )
    elsewhere: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "ModelStatistics": grpc.unary_unary_rpc_method_handler(transport.ModelStatistics),
        "RepositoryModelLoad": grpc.unary_unary_rpc_method_handler(transport.RepositoryModelLoad),
        "RepositoryModelUnload": grpc.unary_unary_rpc_method_handler(transport.RepositoryModelLoad),
    }
    server.add_registered_method_handlers(SERVICE, {"ModelInfer": infer, "ModelStreamInfer": stream, **elsewhere})


def _parse(request: pb.ModelInferRequest, parent: str | None) -> Infer:
    """The request's tensors, from wherever their data stand.

    Raises:
        InvalidRequest: a tensor is none that is taken, or the raw data are not one per input.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest(
            f"{len(request.inputs)} inputs and {len(raw)} raw_input_contents came; one each is needed."
        )
    tensors = []
    for place, given in enumerate(request.inputs):
        check(given.name, given.datatype, given.shape, MOST_CLIPS)
        if raw:
            data = from_raw(raw[place], given.datatype, given.name)
        elif given.datatype == BYTES:
            data = list(given.contents.bytes_contents)
        else:
            numbers = given.contents.fp32_contents
            data = np.fromiter(numbers, np.float32, len(numbers))  # as a list they would be objects of Python first
        tensors.append(Tensor(given.name, given.datatype, tuple(given.shape), data, _values(given.parameters)))
    wanted = [Wanted(output.name, _values(output.parameters)) for output in request.outputs]
    return Infer(request.model_name, request.model_version, _values(request.parameters), tensors, wanted, parent)


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], choice) for name, choice in chosen.items() if choice}


def _answer(request: pb.ModelInferRequest, told: Inferred) -> pb.ModelInferResponse:
    answer = pb.ModelInferResponse(model_name=request.model_name, model_version=told.version, id=request.id)
    answer.parameters["variant"].string_param = told.variant
    for tensor in told.outputs:
        output = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        for name, value in tensor.parameters.items():
            output.parameters[name].string_param = value
        if request.raw_input_contents:
            answer.raw_output_contents.append(to_raw(tensor))
        elif isinstance(tensor.data, np.ndarray):
            output.contents.fp32_contents.extend(tensor.data.ravel().tolist())
        else:
            output.contents.bytes_contents.extend(tensor.data)
    return answer
