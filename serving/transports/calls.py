"""Before any call over gRPC: API keys, then whether there is room, as ``transports.early`` asks for both over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn, TypeAlias

import grpc

from serving.errors import RequestError
from serving.keys import API_KEY, Scope
from serving.lifecycle import Lifecycle
from serving.transports.rpc import Context, refuse

_USES = {
    "/timbre.v1.Timbre/Models": Scope.MODELS,
    "/inference.GRPCInferenceService/RepositoryIndex": Scope.MODELS,
    "/inference.GRPCInferenceService/ServerLive": Scope.HEALTH,
    "/inference.GRPCInferenceService/ServerReady": Scope.HEALTH,
    "/inference.GRPCInferenceService/ModelReady": Scope.HEALTH,
    "/grpc.health.v1.Health/Check": Scope.HEALTH,
    "/grpc.health.v1.Health/Watch": Scope.HEALTH,
}
_PUBLIC = "/grpc.reflection."  # tells what stands in the repository
_AUTHORIZATION, _BEARER = "authorization", "bearer "

Details = grpc.HandlerCallDetails
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[Details], Awaitable[Handler | None]]"


class Calls(grpc.aio.ServerInterceptor):
    """Refuses calls whose key may not make them, and clips for which there is no permit.

    Args:
        clips: methods that bring one clip -> their transport's name in the metrics.
    """

    def __init__(self, lifecycle: Lifecycle, clips: Mapping[str, str]) -> None:
        self._lifecycle, self._clips = lifecycle, clips

    async def intercept_service(self, continuation: Continuation, call: Details) -> Handler | None:
        handler = await continuation(call)
        parts = self._lifecycle.parts
        method = str(call.method)
        if handler is None or parts is None or method.startswith(_PUBLIC):
            return handler
        try:
            parts.guard.admit(_credential(call), _USES.get(method, Scope.PREDICT))
        except RequestError as error:
            return _refusing(handler, error)
        if method in self._clips and (overloaded := parts.pipeline.turned_away(self._clips[method])):
            return _refusing(handler, overloaded)
        return handler


def _credential(call: Details) -> str | None:
    told = {str(key): str(value) for key, value in call.invocation_metadata or ()}
    if API_KEY in told:
        return told[API_KEY]
    value = told.get(_AUTHORIZATION, "")
    return value[len(_BEARER) :].strip() if value.lower().startswith(_BEARER) else None


def _refusing(handler: Handler, error: RequestError) -> Handler:
    """A handler of the same kind that refuses, and unpacks no message."""

    async def refused(_: Any, context: Context) -> NoReturn:
        await refuse(context, error)

    if handler.request_streaming:
        kind = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
    else:
        kind = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
    return kind(refused, None, handler.response_serializer)
