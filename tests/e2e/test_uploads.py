"""Uploads that do not end: they hold little memory, and not for ever."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from functools import partial
from http.client import HTTPResponse

import grpc
import httpx
import pytest

from serving.proto.inference import inference_pb2 as inference
from serving.proto.inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub
from tests.service import Service, metric, running, until
from tests.sounds import encode, voice

WAV = encode(voice(1.0), 16_000)
MIB = 1 << 20
ANNOUNCED, SENT = 4 * MIB, 5 * MIB // 2
BOUNDARY = "frontier"
TIMEOUT_S = 300  # nobody here is too slow, however slow the machine is

INFER = json.dumps(
    {
        "inputs": [
            {"name": "audio", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": ANNOUNCED - 1000}}
        ]
    }
).encode()
FORM = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()

# By way in: path, headers, and how the body begins.
WAYS = {
    "raw": ("/predict", "Content-Type: audio/wav", b""),
    "multipart": ("/predict", f"Content-Type: multipart/form-data; boundary={BOUNDARY}", FORM),
    "tensors": ("/v2/models/timbre/infer", f"Inference-Header-Content-Length: {len(INFER)}", INFER),
}


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with room for two such bodies, and not for three."""
    log = tmp_path_factory.mktemp("uploads") / "log.txt"
    with running(log, max_upload_mib=5, max_held_mib=6, upload_timeout_s=TIMEOUT_S) as service:
        yield service


def begin(service: Service, way: str) -> socket.socket:
    """A connection on which a good half of a body has been sent."""
    path, header, start = WAYS[way]
    connection = service.connect()
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\n{header}\r\nContent-Length: {ANNOUNCED}\r\n\r\n".encode()
    connection.sendall(head + start + bytes(SENT - len(start)))
    return connection


def answer(connection: socket.socket) -> tuple[HTTPResponse, str]:
    response = HTTPResponse(connection)
    response.begin()
    return response, response.read().decode()


@pytest.mark.parametrize("way", WAYS)
def test_bodies_that_are_being_read_take_no_more_memory_than_they_may(roomy: Service, way: str) -> None:
    with contextlib.ExitStack() as stack, httpx.Client(base_url=roomy.url, timeout=30) as client:
        before = metric(client, "timbre_rejects_total", reason="uploads")
        slow = [stack.enter_context(begin(roomy, way)) for _ in range(2)]
        assert until(lambda: metric(client, "timbre_upload_bytes") == 2 * SENT)
        for _ in range(3):  # what one more of them would take is refused while it comes, and let go of
            with begin(roomy, way) as refused:
                response, told = answer(refused)
                assert (response.status, response.headers["retry-after"]) == (429, "1")
                assert "overloaded" in told
                assert "MiB of requests are in memory already" in told
        assert metric(client, "timbre_rejects_total", reason="uploads") - before == 3
        assert metric(client, "timbre_upload_bytes") == 2 * SENT
        # There is room for a small one still, which gives it back, as do those who leave.
        assert client.post("/predict", files={"file": WAV}).is_success
        assert metric(client, "timbre_upload_bytes") == 2 * SENT
        for connection in slow:
            connection.close()
        assert until(lambda: metric(client, "timbre_upload_bytes") == 0)
        assert "Traceback" not in roomy.log.read_text()


def test_what_comes_over_grpc_counts_too(roomy: Service) -> None:
    with contextlib.ExitStack() as stack, httpx.Client(base_url=roomy.url, timeout=30) as client:
        for _ in range(2):
            stack.enter_context(begin(roomy, "raw"))
        assert until(lambda: metric(client, "timbre_upload_bytes") == 2 * SENT)
        channel = stack.enter_context(grpc.insecure_channel(roomy.grpc))
        tensor = inference.ModelInferRequest.InferInputTensor(name="audio", datatype="BYTES", shape=[1])
        infer = inference.ModelInferRequest(
            model_name="timbre", inputs=[tensor], raw_input_contents=[struct.pack("<I", 2 * MIB) + bytes(2 * MIB)]
        )
        for call in (
            partial(TimbreStub(channel).Predict, pb.PredictRequest(audio=bytes(2 * MIB))),
            partial(GRPCInferenceServiceStub(channel).ModelInfer, infer),
        ):
            with pytest.raises(grpc.RpcError, match="MiB of requests are in memory already") as caught:
                call(timeout=30)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert TimbreStub(channel).Predict(pb.PredictRequest(audio=WAV), timeout=30).emotion
        assert metric(client, "timbre_upload_bytes") == 2 * SENT
    with httpx.Client(base_url=roomy.url, timeout=30) as client:
        assert until(lambda: metric(client, "timbre_upload_bytes") == 0)
