"""What is fuzzed, each a function of bytes that may raise what it says it raises and nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from serving import audio
from serving.errors import RequestError, RoutesError
from serving.pipeline import Waveform
from serving.proto.inference import inference_pb2 as oip
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.router import Routes
from serving.transports import grpc as timbre
from serving.transports.fields import unpacker
from serving.transports.oip import grpc as oip_grpc
from serving.transports.oip import http as oip_http
from serving.transports.oip.tensors import clips
from tests.hostile import sounds

Target = Callable[[bytes], None]

_RATE_HZ = 16_000
_MAX_BYTES = 1 << 20
_clip = unpacker(pb.PredictRequest, timbre._MOST_FIELDS)
_clips = unpacker(oip.ModelInferRequest, oip_grpc._MOST_FIELDS)
_LIMITS = audio.Limits(max_duration_s=20)


def decode(data: bytes) -> None:
    """``audio.decode``: samples that are finite, or a refusal."""
    with contextlib.suppress(RequestError):
        clip = audio.decode(data, _RATE_HZ, _LIMITS)
        if not np.isfinite(clip.samples).all():
            raise RuntimeError("samples that are no numbers passed")


def messages(data: bytes) -> None:
    """A request of either gRPC service, and of the Open Inference Protocol over HTTP, up to the pipeline."""
    with contextlib.suppress(RequestError):
        timbre._ask(_clip(data).message, _MAX_BYTES, None, None)
    with contextlib.suppress(RequestError):
        infer = oip_grpc._parse(_clips(data).message, None)
        _read(infer.inputs, infer.parameters)
    length, _, body = data.partition(b"\n")
    for announced in (None, length.decode("latin-1")):
        with contextlib.suppress(RequestError):
            asked, tensors = oip_http._parse(body, announced, lambda _: None)
            _read(tensors, asked.parameters)


def _read(inputs: object, parameters: object) -> None:
    for clip in clips(inputs, parameters, _RATE_HZ):  # type: ignore[arg-type]  # as they were parsed
        if isinstance(clip, Waveform):
            audio.read(clip.open(), _RATE_HZ, _LIMITS)


def routes(data: bytes) -> None:
    """``routes.yaml``."""
    with contextlib.suppress(RoutesError, UnicodeDecodeError):
        Routes.parse(data.decode(), Path("routes.yaml"))


TARGETS: dict[str, Target] = {"decode": decode, "messages": messages, "routes": routes}


def seeds(name: str) -> list[bytes]:
    """Good input to begin from."""
    if name == "decode":
        return [data[:6000] for data in sounds().values()]
    if name == "routes":
        return [
            b'default: stable\nvariants:\n  stable: {version: "1", weight: 90}\n',
            b'default: a\nvariants: {a: {version: "1", weight: 1}}\nshadow: {version: "2", percent: 5}\n',
        ]
    wav = sounds()["wav"][:2000]
    told = pb.PredictRequest(audio=wav, options=pb.Options(model_version="1", key="k", min_confidence=0.5))
    samples = pb.PredictRequest(pcm=pb.Pcm(samples=wav[44:444], rate_hz=_RATE_HZ))
    inference = oip.ModelInferRequest(model_name="timbre", raw_input_contents=[len(wav).to_bytes(4, "little") + wav])
    inference.inputs.add(name="audio", datatype="BYTES", shape=[1])
    tensor = {"name": "waveform", "datatype": "FP32", "shape": [1, 4], "parameters": {"sample_rate": 16_000}}
    body = json.dumps({"inputs": [tensor | {"data": [0.1, 0.2, 0.3, 0.4]}]}).encode()
    binary = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 16}}]}).encode()
    return [
        told.SerializeToString(),
        samples.SerializeToString(),
        inference.SerializeToString(),
        b"\n" + body,
        str(len(binary)).encode() + b"\n" + binary + bytes(16),
    ]
