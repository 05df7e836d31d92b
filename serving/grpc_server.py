"""The gRPC server: both services, health and reflection on one port, in the service's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION
from grpc_reflection.v1alpha.reflection import aio as reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from serving.connection import room_for
from serving.errors import AddressError, IdleTimeout, RequestError, Stopping
from serving.lifecycle import Lifecycle
from serving.settings import Settings
from serving.tls import read_pem
from serving.transports import grpc as timbre
from serving.transports.calls import Calls
from serving.transports.fields import Came, unpacker
from serving.transports.oip import grpc as oip
from serving.transports.rpc import Context, refuse, until_stopped

SERVICES = (timbre.SERVICE, oip.SERVICE)
_CLIPS = {f"/{timbre.SERVICE}/Predict": timbre.TRANSPORT, f"/{oip.SERVICE}/ModelInfer": oip.TRANSPORT}

_LOOK_S = 1.0  # between looks at readiness; a stop is told at once
_SPARE_BYTES = 1 << 20  # above the limit of an upload, so that what is a little over it gets our answer and not gRPC's
_PONG_S = 10  # at most, for a connection to answer a ping; clients may send theirs so often
_MOST_FIELDS = 64  # of what asks reflection, which is one


class GrpcServer:
    """Opened before the models are loaded: until then every call is told that the service is starting."""

    def __init__(self, settings: Settings, lifecycle: Lifecycle) -> None:
        self._settings, self._lifecycle = settings, lifecycle
        idle_s = settings.timeout_s + settings.upload_timeout_s  # who waits for an answer before he goes on may do so
        calls = Calls(lifecycle, _CLIPS)
        self._server = grpc.aio.server(interceptors=[calls], options=_options(settings))
        timbre.add_to_server(timbre.GrpcTransport(lifecycle, idle_s), self._server)
        oip.add_to_server(oip.OipGrpcTransport(lifecycle, idle_s), self._server)
        self._health = _Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        _Reflection((*SERVICES, HEALTH, REFLECTION), lifecycle.told_to_stop, idle_s).add_to(self._server)
        self._watcher: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Take calls.

        Raises:
            AddressError: the port is taken, or the address is not this machine's.
        """
        address = f"{self._settings.host_of_url}:{self._settings.grpc_port}"
        try:
            if credentials := _credentials(self._settings):
                self._server.add_secure_port(address, credentials)
            else:
                self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise AddressError(
                f"{address} cannot be listened on for gRPC. Stop what is there, or set TIMBRE_GRPC_PORT (0 for none)."
            ) from error
        await self.tell()
        await self._server.start()
        self._watcher = asyncio.create_task(self._keep_telling())

    async def close(self) -> None:
        """Take nothing new, and return when what is in flight has been answered, or the time for it is over."""
        if self._watcher is not None:
            self._watcher.cancel()
        await self._health.enter_graceful_shutdown()
        self._health.close()
        await self._server.stop(self._lifecycle.left_to_finish_s())

    async def _keep_telling(self) -> None:
        """Health follows readiness: within a second, and a stop at once."""
        while not self._lifecycle.stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lifecycle.told_to_stop.wait(), _LOOK_S)
            await self.tell()

    async def tell(self) -> None:
        """Let health say now whether the service is ready."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        ready = await self._lifecycle.why_not_ready() is None
        for service in ("", *SERVICES):
            await self._health.set(service, status.SERVING if ready else status.NOT_SERVING)


class _Health(health.HealthServicer):  # type: ignore[misc]  # it has no types
    """The library's, whose watches would outlast the service that they watch."""

    def __init__(self) -> None:
        super().__init__()
        self._closed = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        watching = asyncio.ensure_future(super().Watch(request, context))
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({watching, closed}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
        finally:
            watching.cancel()
            closed.cancel()
        await refuse(context, Stopping("The service has stopped. Watch another replica."))

    def close(self) -> None:
        """End the watches, which have been told."""
        self._closed.set()


class _Reflection(reflection.ReflectionServicer):  # type: ignore[misc]  # nor has it
    """The library's, whose streams would hold up a stop, and whose messages have messages in them."""

    def __init__(self, services: Sequence[str], stopping: asyncio.Event, idle_s: float) -> None:
        super().__init__(services)
        self._stopping, self._idle_s = stopping, idle_s

    def add_to(self, server: grpc.aio.Server) -> None:
        """As the generated function does, but for messages that are looked at before they are unpacked."""
        add_ServerReflectionServicer_to_server(self, server)
        told = grpc.stream_stream_rpc_method_handler(
            self.ServerReflectionInfo,
            unpacker(ServerReflectionRequest, _MOST_FIELDS),
            ServerReflectionResponse.SerializeToString,
        )
        server.add_registered_method_handlers(REFLECTION, {"ServerReflectionInfo": told})

    async def ServerReflectionInfo(
        self, requests: AsyncIterator[Came[ServerReflectionRequest]], context: Context
    ) -> AsyncIterator[ServerReflectionResponse]:
        async with aclosing(until_stopped(requests, self._stopping, self._idle_s)) as coming:
            try:
                async for answer in super().ServerReflectionInfo((came.message async for came in coming), context):
                    yield answer
            except (IdleTimeout, Stopping):
                return
            except RequestError as error:
                await refuse(context, error)


def _options(settings: Settings) -> list[tuple[str, int]]:
    """Channel arguments of gRPC core."""
    age_ms = round(1e3 * settings.grpc_age_s)
    pong_ms = round(1e3 * min(_PONG_S, settings.grpc_ping_s))
    return [
        ("grpc.max_receive_message_length", settings.max_upload_bytes + _SPARE_BYTES),
        ("grpc.max_send_message_length", -1),
        # As many as can be answered of either kind; what more a client begins waits at the client. Each may have a
        # whole message in memory before we hear of it, so that these are not added up.
        ("grpc.max_concurrent_streams", max(settings.max_inflight, settings.listen_streams)),
        ("grpc.max_allowed_incoming_connections", room_for(settings)[1]),
        # A balancer before several replicas sees new connections only: old ones are asked to go, and may finish.
        ("grpc.max_connection_age_ms", age_ms),
        ("grpc.max_connection_age_grace_ms", round(1e3 * (settings.listen_max_s + settings.timeout_s))),
        ("grpc.keepalive_time_ms", round(1e3 * settings.grpc_ping_s)),
        ("grpc.keepalive_timeout_ms", pong_ms),
        ("grpc.http2.ping_timeout_ms", pong_ms),  # which is a minute else, whatever the line above says
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000 * _PONG_S),
        # Several workers share the port, and the kernel gives each connection to one; else a port in use is an error.
        ("grpc.so_reuseport", int(settings.workers > 1)),
    ]


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if not settings.tls_cert:
        return None
    pair = (read_pem(settings.tls_key), read_pem(settings.tls_cert))
    authority = read_pem(settings.tls_ca) if settings.tls_ca else None
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)
