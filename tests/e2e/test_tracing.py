"""Spans as a collector gets them, over a real socket; and that nothing is loaded for those who do not trace."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from websockets.sync.client import connect

from benchmarks.streams import frames_of
from serving.proto.inference import inference_pb2, inference_pb2_grpc
from serving.proto.timbre.v1 import timbre_pb2, timbre_pb2_grpc
from tests.conftest import ROOT, SERVED
from tests.service import free_port, refusal, running
from tests.sounds import encode, voice
from tests.transports import Clip

WAV = encode(voice(1.0), 16_000)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """What was posted to /v1/traces."""

    def __init__(self) -> None:
        self.port = free_port()
        self.received: list[ExportTraceServiceRequest] = []

    @contextmanager
    def listening(self) -> Iterator[str]:
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    received.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{self.port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def test_a_collector_gets_a_span_per_request_with_its_stages(tmp_path: Path) -> None:
    collector = Collector()
    with collector.listening() as url:
        with running(tmp_path / "log.txt", otlp_endpoint=url) as service:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            good = httpx.post(f"{service.url}/predict", files={"file": WAV}, headers=headers, timeout=30)
            assert good.is_success
            assert httpx.post(f"{service.url}/predict", files={"file": b"nothing"}, timeout=30).status_code == 415
            with grpc.insecure_channel(service.grpc) as channel:
                stub = timbre_pb2_grpc.TimbreStub(channel)
                stub.Predict(timbre_pb2.PredictRequest(audio=WAV), metadata=tuple(headers.items()), timeout=30)
        # What waits to be sent is sent at the stop.
        spans = collector.spans()
    answered, refused, called = [span for span in spans if span.name == "predict"]
    assert (answered.trace_id.hex(), answered.parent_span_id.hex()) == (TRACE, PARENT)
    attributes = {pair.key: pair.value.string_value for pair in answered.attributes}
    assert attributes == {"timbre.transport": "http", "timbre.variant": "stable", "timbre.version": SERVED}
    stages = [span for span in spans if span.parent_span_id == answered.span_id]
    assert [stage.name for stage in stages] == ["decode", "queue", "inference"]
    for stage in stages:
        assert answered.start_time_unix_nano <= stage.start_time_unix_nano <= stage.end_time_unix_nano
        assert stage.end_time_unix_nano <= answered.end_time_unix_nano
    assert (called.trace_id, called.parent_span_id) == (answered.trace_id, answered.parent_span_id)
    assert refused.status.code == Status.STATUS_CODE_ERROR
    assert {"timbre.code": "unsupported_audio"}.items() <= {
        pair.key: pair.value.string_value for pair in refused.attributes
    }.items()
    names = {pair.value.string_value for pair in collector.received[0].resource_spans[0].resource.attributes}
    assert "timbre" in names


def test_every_transport_hands_the_callers_trace_over(tmp_path: Path, spoken: dict[int, Clip]) -> None:
    collector, header = Collector(), {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    metadata = tuple(header.items())
    frames = frames_of(spoken[16_000].pcm, 16_000)
    audio = {"name": "audio", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(WAV).decode()]}
    request = inference_pb2.ModelInferRequest(model_name="timbre")
    request.inputs.add(name="audio", datatype="BYTES", shape=[1]).contents.bytes_contents.append(WAV)
    with collector.listening() as url, running(tmp_path / "log.txt", otlp_endpoint=url) as service:
        answer = httpx.post(
            f"{service.url}/v2/models/timbre/infer", json={"inputs": [audio]}, headers=header, timeout=30
        )
        assert answer.is_success
        with connect(service.listen_url(rate_hz=16_000), additional_headers=header) as socket:
            for frame in frames:
                socket.send(frame)
            socket.send('{"type": "end"}')
            assert [told for told in socket if "utterance.end" in str(told)]
        with grpc.insecure_channel(service.grpc) as channel:
            oip = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            oip.ModelInfer(request, metadata=metadata, timeout=30)
            list(oip.ModelStreamInfer(iter([request]), metadata=metadata, timeout=30))
            start = timbre_pb2.ListenRequest(start=timbre_pb2.ListenStart(rate_hz=16_000))
            live = [start, *(timbre_pb2.ListenRequest(frame=frame) for frame in frames)]
            list(timbre_pb2_grpc.TimbreStub(channel).Listen(iter(live), metadata=metadata, timeout=60))
    heard = [span for span in collector.spans() if span.name == "predict"]
    transports = Counter(
        pair.value.string_value for span in heard for pair in span.attributes if pair.key == "timbre.transport"
    )
    assert (transports["oip-http"], transports["oip-grpc"]) == (1, 2)
    assert transports["websocket"] == transports["grpc"] >= 2
    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in heard} == {(TRACE, PARENT)}


def test_a_collector_that_is_not_there_hinders_nobody(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", otlp_endpoint=f"http://127.0.0.1:{free_port()}") as service:
        assert httpx.post(f"{service.url}/predict", files={"file": WAV}, timeout=30).is_success
        assert service.stop() == 0


@pytest.mark.parametrize(("endpoint", "loads"), [("", False), ("http://127.0.0.1:4318", True)])
def test_the_exporter_is_loaded_only_for_a_collector(endpoint: str, loads: bool) -> None:
    code = (
        "import sys, serving.server; from serving.tracing import Tracing; Tracing.to(sys.argv[1]); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, endpoint]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert ("opentelemetry.exporter.otlp.proto.http.trace_exporter" in loaded) is loads


def test_what_is_no_address_is_refused() -> None:
    result = refusal(otlp_endpoint="collector:4318")
    assert result.returncode == 2
    assert "TIMBRE_OTLP_ENDPOINT" in result.stderr
