"""One span per request with its stages as children, sent to a collector by OTLP; nothing at all where none is set.

Spans are made when a request has ended, from the times that were measured anyway: nothing is looked up or switched
while it is on its way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from serving.errors import RequestError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

PARENT = "traceparent"
"""The header, in HTTP and in gRPC's metadata, by which a caller hands its trace over (W3C Trace Context)."""

_SECOND_NS = 1_000_000_000


class Span:
    """A request that nobody traces."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The request has ended."""

    def answered(self, variant: str, version: str, stages_s: Mapping[str, float]) -> None:
        """Who answered, and how long each stage took, seconds, one after the other."""


class Tracing:
    """Traces nothing: no library is loaded, no thread is started."""

    def request(self, transport: str, parent: str | None) -> Span:  # noqa: ARG002 - for those that trace
        """The span of a request that begins now.

        Args:
            transport: by which it came.
            parent: its traceparent header.
        """
        return _NOTHING

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""

    @staticmethod
    def to(endpoint: str) -> Tracing:
        """Tracing to a collector, such as http://otel-collector:4318; none where the address is empty."""
        return _Otlp(endpoint) if endpoint else Tracing()


_NOTHING = Span()


class _Otlp(Tracing):
    """OpenTelemetry's SDK. It reads its own OTEL_* variables too: sampling, attributes of the resource, batch sizes."""

    def __init__(self, endpoint: str) -> None:
        # Here, because it costs memory and time that nobody who does not trace need pay.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "timbre"}))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))

    def request(self, transport: str, parent: str | None) -> Span:
        return _Recorded(self._provider, transport, parent)

    def close(self) -> None:
        self._provider.shutdown()


class _Recorded(Span):
    """A request whose span is made when it ends."""

    def __init__(self, provider: TracerProvider, transport: str, parent: str | None) -> None:
        self._provider, self._parent, self._began_ns = provider, parent, time.time_ns()
        self._attributes: dict[str, str] = {"timbre.transport": transport}
        self._stages_s: Mapping[str, float] = {}

    def answered(self, variant: str, version: str, stages_s: Mapping[str, float]) -> None:
        self._attributes |= {"timbre.variant": variant, "timbre.version": version}
        self._stages_s = stages_s

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        tracer = self._provider.get_tracer("timbre")
        above = TraceContextTextMapPropagator().extract({PARENT: self._parent or ""})
        span = tracer.start_span("predict", above, SpanKind.SERVER, self._attributes, start_time=self._began_ns)
        if kind is not None:
            span.set_attribute("timbre.code", error.code if isinstance(error, RequestError) else kind.__name__)
            span.set_status(StatusCode.ERROR, str(error))
        here, at_ns = set_span_in_context(span, above), self._began_ns
        for stage, seconds in self._stages_s.items():
            child = tracer.start_span(stage, here, start_time=at_ns)
            at_ns += round(seconds * _SECOND_NS)
            child.end(at_ns)
        span.end()
