"""One way to ask per transport, so that a test can ask them all the same and compare what they say."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from websockets.sync.client import connect

from benchmarks.streams import plain
from serving.proto.inference import inference_pb2 as oip
from serving.proto.inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub
from tests.service import Service
from tests.sounds import Sound, encode

LABELS = "labels"


@dataclass(frozen=True)
class Clip:
    """A sound in 16 bit, and the file that holds just that; some are no sound but bytes."""

    samples: np.ndarray
    rate_hz: int
    data: bytes

    @property
    def pcm(self) -> bytes:
        raw: bytes = self.samples.astype("<i2").tobytes()
        return raw


def clip_of(sound: Sound, rate_hz: int) -> Clip:
    samples = np.round(sound * 32767).astype(np.int16)
    return Clip(samples, rate_hz, encode(samples, rate_hz))


@dataclass(frozen=True)
class Told:
    """What every transport says of a clip."""

    emotion: str | None
    confidence: float
    all_emotions: dict[str, float]
    version: str


class RefusedError(Exception):
    """A refusal, by its code word."""


Options = dict[str, Any]
Ask = Callable[[Service, Clip, Options], Told]


def _of_json(answer: dict[str, Any]) -> Told:
    return Told(answer["emotion"], answer["confidence"], answer["all_emotions"], answer["model_version"])


def _http(service: Service, options: Options, **body: Any) -> Told:
    query = {"min_confidence": options["min_confidence"]} if "min_confidence" in options else {}
    headers = {"X-Model-Version": options["version"]} if "version" in options else {}
    answer = httpx.post(f"{service.url}/predict", params=query, headers=headers | body.pop("headers", {}), **body)
    if not answer.is_success:
        raise RefusedError(answer.json()["error"]["code"])
    return _of_json(answer.json())


def multipart(service: Service, clip: Clip, options: Options) -> Told:
    return _http(service, options, files={"file": ("clip.wav", clip.data)})


def raw_body(service: Service, clip: Clip, options: Options) -> Told:
    return _http(service, options, content=clip.data, headers={"Content-Type": "audio/wav"})


def code_of(error: grpc.RpcError) -> str:
    """The code word, which must be the same in the message and in the details."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "timbre"
    assert (error.details() or "").startswith(f"{info.reason}: ")
    return str(info.reason)


def options_of(options: Options) -> pb.Options:
    return pb.Options(model_version=options.get("version"), min_confidence=options.get("min_confidence", 0))


def _of_message(told: pb.Prediction) -> Told:
    emotion = told.emotion if told.HasField("emotion") else None
    return Told(emotion, told.confidence, dict(told.all_emotions), told.model_version)


def _predict(service: Service, request: pb.PredictRequest) -> Told:
    with grpc.insecure_channel(service.grpc) as channel:
        try:
            return _of_message(TimbreStub(channel).Predict(request))
        except grpc.RpcError as error:
            raise RefusedError(code_of(error)) from error


def grpc_file(service: Service, clip: Clip, options: Options) -> Told:
    return _predict(service, pb.PredictRequest(audio=clip.data, options=options_of(options)))


def grpc_samples(service: Service, clip: Clip, options: Options) -> Told:
    pcm = pb.Pcm(samples=clip.pcm, rate_hz=clip.rate_hz)
    return _predict(service, pb.PredictRequest(pcm=pcm, options=options_of(options)))


def grpc_many(service: Service, clip: Clip, options: Options) -> Told:
    request = pb.PredictRequest(audio=clip.data, options=options_of(options))
    with grpc.insecure_channel(service.grpc) as channel:
        (answer,) = TimbreStub(channel).PredictMany(iter([request])).answers
    if answer.HasField("error"):
        raise RefusedError(answer.error.code)
    return _of_message(answer.prediction)


def _of_tensors(version: str, emotion: bytes, confidence: float, row: list[float], labels: str) -> Told:
    return Told(emotion.decode() or None, confidence, dict(zip(labels.split(","), row, strict=True)), version)


def _path(service: Service, options: Options) -> str:
    version = f"/versions/{options['version']}" if "version" in options else ""
    return f"{service.url}/v2/models/timbre{version}"


def _parameters(options: Options) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key == "min_confidence"}


def _oip_answer(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise RefusedError(answer.json()["error"].split(":")[0])
    told: dict[str, Any] = answer.json()
    return told


def _oip_json(service: Service, tensor: dict[str, Any], options: Options) -> Told:
    body = {"inputs": [tensor], "parameters": _parameters(options)}
    told = _oip_answer(httpx.post(f"{_path(service, options)}/infer", json=body))
    emotion, confidence, probabilities = (output["data"] for output in told["outputs"])
    labels = httpx.get(f"{service.url}/v2/models/timbre").json()["outputs"][2]["parameters"][LABELS]
    return _of_tensors(told["model_version"], emotion[0].encode(), confidence[0], probabilities, labels)


def oip_json_file(service: Service, clip: Clip, options: Options) -> Told:
    data = [base64.b64encode(clip.data).decode()]
    return _oip_json(service, {"name": "audio", "datatype": "BYTES", "shape": [1], "data": data}, options)


def _waveform(clip: Clip) -> dict[str, Any]:
    shape, parameters = [1, len(clip.samples)], {"sample_rate": clip.rate_hz}
    return {"name": "waveform", "datatype": "FP32", "shape": shape, "parameters": parameters}


def oip_json_samples(service: Service, clip: Clip, options: Options) -> Told:
    return _oip_json(service, _waveform(clip) | {"data": (clip.samples / 32768).tolist()}, options)


def oip_binary(service: Service, clip: Clip, options: Options) -> Told:
    element = struct.pack("<I", len(clip.data)) + clip.data
    tensor = {"name": "audio", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(element)}}
    head = json.dumps({"inputs": [tensor], "parameters": _parameters(options) | {"binary_data_output": True}}).encode()
    answer = httpx.post(
        f"{_path(service, options)}/infer",
        content=head + element,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    if not answer.is_success:
        raise RefusedError(answer.json()["error"].split(":")[0])
    length = int(answer.headers["Inference-Header-Content-Length"])
    told, rest = json.loads(answer.content[:length]), answer.content[length:]
    sizes = [output["parameters"]["binary_data_size"] for output in told["outputs"]]
    emotion, confidence, probabilities = (rest[sum(sizes[:n]) : sum(sizes[: n + 1])] for n in range(3))
    labels = httpx.get(f"{service.url}/v2/models/timbre").json()["outputs"][2]["parameters"][LABELS]
    row = np.frombuffer(probabilities, "<f4").tolist()
    return _of_tensors(told["model_version"], emotion[4:], struct.unpack("<f", confidence)[0], row, labels)


def _oip_request(clip: Clip, options: Options, *, samples: bool) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="timbre", model_version=options.get("version", ""))
    for name, value in _parameters(options).items():
        request.parameters[name].double_param = value
    if samples:
        tensor = request.inputs.add(name="waveform", datatype="FP32", shape=[1, len(clip.samples)])
        tensor.parameters["sample_rate"].int64_param = clip.rate_hz
        tensor.contents.fp32_contents.extend((clip.samples / 32768).tolist())
    else:
        request.inputs.add(name="audio", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(struct.pack("<I", len(clip.data)) + clip.data)
    return request


def _of_inference(stub: GRPCInferenceServiceStub, told: oip.ModelInferResponse) -> Told:
    metadata = stub.ModelMetadata(oip.ModelMetadataRequest(name="timbre"))
    labels = metadata.outputs[2].parameters[LABELS].string_param
    if told.raw_output_contents:
        emotion, confidence, probabilities = told.raw_output_contents
        sure, row = struct.unpack("<f", confidence)[0], np.frombuffer(probabilities, "<f4").tolist()
        return _of_tensors(told.model_version, emotion[4:], sure, row, labels)
    name, sure, row = (output.contents for output in told.outputs)
    return _of_tensors(
        told.model_version, name.bytes_contents[0], sure.fp32_contents[0], list(row.fp32_contents), labels
    )


def _oip_grpc(service: Service, clip: Clip, options: Options, *, samples: bool) -> Told:
    with grpc.insecure_channel(service.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        try:
            return _of_inference(stub, stub.ModelInfer(_oip_request(clip, options, samples=samples)))
        except grpc.RpcError as error:
            raise RefusedError(code_of(error)) from error


def oip_grpc_file(service: Service, clip: Clip, options: Options) -> Told:
    return _oip_grpc(service, clip, options, samples=False)


def oip_grpc_samples(service: Service, clip: Clip, options: Options) -> Told:
    return _oip_grpc(service, clip, options, samples=True)


def oip_stream(service: Service, clip: Clip, options: Options) -> Told:
    with grpc.insecure_channel(service.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        (answer,) = stub.ModelStreamInfer(iter([_oip_request(clip, options, samples=False)]))
        if answer.error_message:
            raise RefusedError(answer.error_message.split(":")[0])
        return _of_inference(stub, answer.infer_response)


TAKE_FILES: list[Ask] = [
    multipart, raw_body, grpc_file, grpc_many, oip_json_file, oip_binary, oip_grpc_file, oip_stream,
]  # fmt: skip
TAKE_SAMPLES: list[Ask] = [grpc_samples, oip_json_samples, oip_grpc_samples]

Talk = Callable[..., Iterator[dict[str, Any]]]


def websocket(service: Service, frames: list[bytes], rate_hz: int, **options: float) -> Iterator[dict[str, Any]]:
    """The messages of a live stream, as JSON says them."""
    with connect(service.listen_url(rate_hz=rate_hz, **options)) as socket:
        for frame in frames:
            socket.send(frame)
        socket.send('{"type": "end"}')
        yield from map(json.loads, socket)


def grpc_listen(
    service: Service, frames: list[bytes], rate_hz: int, hop_s: float | None = None
) -> Iterator[dict[str, Any]]:
    """The messages of a live stream, under the names that they have in JSON."""
    start = pb.ListenRequest(start=pb.ListenStart(rate_hz=rate_hz, hop_s=hop_s))
    with grpc.insecure_channel(service.grpc) as channel:
        for message in TimbreStub(channel).Listen(iter([start, *(pb.ListenRequest(frame=frame) for frame in frames)])):
            yield plain(message)


LIVE: list[Talk] = [websocket, grpc_listen]
