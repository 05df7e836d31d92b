"""Requests made up from what the service says of itself: every answer is one that is described, and none is a fault."""

from __future__ import annotations

import json
from typing import Any

import grpc
import httpx
import pytest
import schemathesis
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import BaseSchema
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.errors import RequestError
from serving.lifecycle import Lifecycle
from serving.proto.inference import inference_pb2 as oip
from serving.proto.inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub
from serving.service import http_transport
from tests.service import Service
from tests.sounds import encode, voice
from tests.transports import code_of

CODES = {error.code for error in RequestError.__subclasses__()} - {"internal"}
WAV = encode(voice(0.3), 16_000)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

quick = settings(deadline=None, max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def document(service: Service) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


OPERATIONS = [
    (path, method)
    for path, item in http_transport(Lifecycle()).app.openapi()["paths"].items()
    for method in item
    if method in ("get", "post")
]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_over_http_is_described(service: Service, document: BaseSchema, path: str, method: str) -> None:
    @given(case=document[path][method].as_strategy())
    @settings(quick, max_examples=15)
    def ask(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(base_url=service.url, checks=CHECKS, timeout=60)

    ask()


def test_every_path_that_answers_is_described(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()["paths"]
    for path in ("/predict", "/models", "/feedback", "/experiments", "/health", "/livez", "/readyz", "/metrics", "/v2"):
        assert path in described
    for path, item in described.items():
        for method, operation in item.items():
            if method in ("get", "post"):
                assert {"200", "401", "403", "429"} <= operation["responses"].keys(), path


texts = st.text(max_size=30)
clips = st.one_of(
    st.binary(max_size=200), st.builds(lambda: WAV), st.binary(max_size=60).map(lambda tail: WAV[:200] + tail)
)
options = st.builds(
    pb.Options,
    model_version=st.none() | texts,
    key=texts,
    min_confidence=st.floats(width=32),
    filename=st.none() | texts,
)
predictions = st.one_of(
    st.builds(pb.PredictRequest, audio=clips, options=options),
    st.builds(
        pb.PredictRequest,
        pcm=st.builds(pb.Pcm, samples=st.binary(max_size=9000), rate_hz=st.integers(0, 2**32 - 1)),
        options=options,
    ),
    st.just(pb.PredictRequest()),
)


def answered(call: Any, request: Message) -> None:
    """It is answered, or refused by a code of the table."""
    code = None
    try:
        call(request, timeout=60)
    except grpc.RpcError as error:
        code = code_of(error)
    assert code is None or code in CODES


@pytest.fixture(scope="module")
def channel(service: Service) -> Any:
    with grpc.insecure_channel(service.grpc) as channel:
        yield channel


@given(request=predictions)
@quick
def test_every_answer_of_predict_is_one_of_the_table(channel: grpc.Channel, request: pb.PredictRequest) -> None:
    answered(TimbreStub(channel).Predict, request)


@given(requests=st.lists(predictions, max_size=5))
@quick
def test_every_answer_of_many_is_one_of_the_table(channel: grpc.Channel, requests: list[pb.PredictRequest]) -> None:
    answers = TimbreStub(channel).PredictMany(iter(requests), timeout=60).answers
    assert len(answers) == len(requests)
    assert {answer.error.code for answer in answers if answer.HasField("error")} <= CODES


listens = st.one_of(
    st.builds(
        pb.ListenRequest,
        start=st.builds(pb.ListenStart, rate_hz=st.integers(0, 200_000) | st.just(16_000), options=options),
    ),
    st.builds(pb.ListenRequest, frame=st.binary(max_size=4000)),
    st.just(pb.ListenRequest()),
)


@given(requests=st.lists(listens, max_size=6))
@quick
def test_every_end_of_a_stream_is_one_of_the_table(channel: grpc.Channel, requests: list[pb.ListenRequest]) -> None:
    answered(lambda these, timeout: list(TimbreStub(channel).Listen(iter(these), timeout=timeout)), requests)  # type: ignore[arg-type]


parameters = st.dictionaries(
    st.sampled_from(["key", "min_confidence", "sample_rate", "timeout", "other"]),
    st.one_of(
        st.builds(oip.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)),
        st.builds(oip.InferParameter, double_param=st.floats()),
        st.builds(oip.InferParameter, string_param=texts),
        st.builds(oip.InferParameter, bool_param=st.booleans()),
        st.just(oip.InferParameter()),
    ),
    max_size=3,
)
contents = st.one_of(
    st.builds(oip.InferTensorContents, bytes_contents=st.lists(clips, max_size=3)),
    st.builds(oip.InferTensorContents, fp32_contents=st.lists(st.floats(width=32), max_size=50)),
)
tensors = st.builds(
    oip.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["audio", "waveform"]) | texts,
    datatype=st.sampled_from(["BYTES", "FP32"]) | texts,
    shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 50), max_size=4),
    parameters=parameters,
    contents=contents,
)
inferences = st.builds(
    oip.ModelInferRequest,
    model_name=st.just("timbre") | texts,
    model_version=st.just("") | texts,
    parameters=parameters,
    inputs=st.lists(tensors, max_size=3),
    outputs=st.lists(
        st.builds(
            oip.ModelInferRequest.InferRequestedOutputTensor, name=st.sampled_from(["emotion", "confidence"]) | texts
        ),
        max_size=3,
    ),
    raw_input_contents=st.lists(st.binary(max_size=100), max_size=3),
)


@given(request=inferences)
@quick
def test_every_answer_of_an_inference_is_one_of_the_table(
    channel: grpc.Channel, request: oip.ModelInferRequest
) -> None:
    answered(GRPCInferenceServiceStub(channel).ModelInfer, request)


model = {"name": st.just("timbre") | texts, "version": st.sampled_from(["", "1", "2"]) | texts}
SMALL: dict[str, tuple[Any, st.SearchStrategy[Message]]] = {
    "Models": (TimbreStub, st.just(pb.ModelsRequest())),
    "ModelReady": (GRPCInferenceServiceStub, st.builds(oip.ModelReadyRequest, **model)),
    "ModelMetadata": (GRPCInferenceServiceStub, st.builds(oip.ModelMetadataRequest, **model)),
    "ModelConfig": (GRPCInferenceServiceStub, st.builds(oip.ModelConfigRequest, **model)),
    "RepositoryIndex": (
        GRPCInferenceServiceStub,
        st.builds(oip.RepositoryIndexRequest, repository_name=texts, ready=st.booleans()),
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_answer_about_models_is_one_of_the_table(channel: grpc.Channel, name: str) -> None:
    stub, requests = SMALL[name]

    @given(request=requests)
    @settings(quick, max_examples=20)
    def ask(request: Message) -> None:
        answered(getattr(stub(channel), name), request)

    ask()


@given(requests=st.lists(inferences, max_size=4))
@settings(quick, max_examples=20)
def test_every_answer_of_a_stream_of_inferences_is_one_of_the_table(
    channel: grpc.Channel, requests: list[oip.ModelInferRequest]
) -> None:
    """One each, in their order."""
    answers = list(GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(requests), timeout=60))
    assert [answer.infer_response.id for answer in answers] == [request.id for request in requests]
    assert {answer.error_message.split(":")[0] for answer in answers if answer.error_message} <= CODES


@given(
    body=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=12,
    ),
    length=st.none() | st.text("0123456789-+x", max_size=25),
)
@quick
def test_every_answer_of_an_inference_over_http_is_one_of_the_table(
    client: httpx.Client, body: Any, length: str | None
) -> None:
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    audio = {"name": "audio", "datatype": "BYTES", "shape": [1], "data": body}
    waveform = {"name": "waveform", "datatype": "FP32", "shape": [1, 1], "data": body}
    for told in (body, {"inputs": [audio]}, {"inputs": [waveform]}):
        answer = client.post("/v2/models/timbre/infer", content=json.dumps(told), headers=headers)
        assert answer.status_code < 500
        assert answer.json()["error"].split(":")[0] in CODES


@pytest.mark.parametrize(
    "parameters", [{}, {"sample_rate": 10**400}, {"timeout": 10**400}, {"min_confidence": 10**400}]
)
def test_numbers_larger_than_any_float_are_refused(client: httpx.Client, parameters: dict[str, int]) -> None:
    sample = 0 if parameters else 10**400
    waveform = {"name": "waveform", "datatype": "FP32", "shape": [1, 1], "data": [sample]}
    answer = client.post("/v2/models/timbre/infer", json={"inputs": [waveform], "parameters": parameters})
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"].split(":")[0] in CODES
