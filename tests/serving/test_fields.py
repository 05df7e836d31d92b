"""What messages over gRPC may hold: it is counted before they are unpacked, and so is what becomes of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from google.protobuf.message import Message
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from serving import grpc_server
from serving.errors import InvalidRequest, TooLarge
from serving.proto.inference import inference_pb2 as oip
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.transports import grpc as timbre
from serving.transports.fields import Came, unpacker
from serving.transports.oip import grpc as oip_grpc
from tests.memory import taking

KINDS: dict[type[Message], int] = {
    pb.PredictRequest: timbre._MOST_FIELDS,
    pb.ListenRequest: timbre._MOST_FIELDS,
    oip.ModelInferRequest: oip_grpc._MOST_FIELDS,
    ServerReflectionRequest: grpc_server._MOST_FIELDS,
}


def unpack(kind: type[Message], wire: bytes) -> Came[Any]:
    return unpacker(kind, KINDS[kind])(wire)


def within(*tags: int, content: bytes) -> bytes:
    """A message in a message, and so on."""
    for tag in reversed(tags):
        content = bytes([tag << 3 | 2]) + varint(len(content)) + content
    return content


def varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)


TINY = {
    "inputs": b"\x2a\x00",
    "outputs": b"\x32\x00",
    "raw contents": b"\x3a\x00",
    "parameters": b"\x22\x00",
    "unknown fields": b"\x78\x00",
}
CLIP = within(1, content=b"RIFF")
INPUT = within(1, content=b"audio") + within(2, content=b"BYTES")
COUNTLESS: dict[str, tuple[type[Message], bytes]] = {
    **{name: (oip.ModelInferRequest, tiny * 2_000_000) for name, tiny in TINY.items()},
    "clips": (oip.ModelInferRequest, within(5, 5, content=b"\x42\x00" * 2_000_000)),
    "shape": (oip.ModelInferRequest, within(5, 3, content=bytes(4_000_000))),
    "integers where samples should be": (oip.ModelInferRequest, within(5, 5, 3, content=bytes(4_000_000))),
    "integers in many lists": (
        oip.ModelInferRequest,
        within(5, content=INPUT + within(5, content=within(3, content=bytes(4096)) * 500 + within(8, content=CLIP))),
    ),
    "shape in pieces": (oip.ModelInferRequest, within(5, content=b"\x18\x00" * 2_000_000)),
    "inputs' parameters": (oip.ModelInferRequest, within(5, content=b"\x22\x00" * 2_000_000)),
    "outputs' parameters": (oip.ModelInferRequest, within(6, content=b"\x12\x00" * 2_000_000)),
    "either of two": (pb.PredictRequest, b"\x0a\x00\x12\x00" * 500_000 + CLIP),
    "options": (pb.PredictRequest, b"\x1a\x00" * 500_000 + CLIP),
    "options in options": (pb.ListenRequest, b"\x0a\x02\x12\x00\x12\x00" * 300_000),
    "reflection": (ServerReflectionRequest, b"\x2a\x00\x1a\x00" * 500_000),
}


@pytest.mark.parametrize("shape", COUNTLESS)
def test_a_message_of_countless_things_is_refused_before_it_is_unpacked(shape: str) -> None:
    kind, wire = COUNTLESS[shape]
    came, took = taking(lambda: unpack(kind, wire))
    assert took < MIB
    assert isinstance(came.unpacked, TooLarge)
    assert came.unpacked.__traceback__ is None, "it would keep the message"
    with pytest.raises(TooLarge, match=r"The message has over (4096|64) (fields|bytes of integers)"):
        _ = came.message


def grown(tag: int, number_bytes: int) -> list[bytes]:
    """A list in pieces each as long as all before it: whenever one comes, there is just no room left in the list."""
    lengths = [16, *(16 << n for n in range(16)), 2]
    return [within(tag, content=bytes(number_bytes * length)) for length in lengths]


MIB = 1 << 20
KEPT: dict[str, tuple[type[Message], bytes]] = {
    "a clip": (pb.PredictRequest, within(1, content=bytes(4 * MIB))),
    "a clip after others": (pb.PredictRequest, within(1, content=bytes(MIB)) * 8 + CLIP),
    "samples between clips": (pb.PredictRequest, (within(2, 1, content=bytes(MIB)) + CLIP) * 8),
    "frames": (pb.ListenRequest, within(2, content=bytes(MIB)) * 8),
    "what is unknown": (pb.ListenRequest, within(14, content=bytes(MIB)) * 8),
    "most inputs": (oip.ModelInferRequest, b"\x2a\x00" * KINDS[oip.ModelInferRequest]),
    "most parameters": (
        oip.ModelInferRequest,
        b"".join(within(4, content=within(1, content=b"%d" % n) + b"\x12\x00") for n in range(1300)),
    ),
    "most integers": (oip.ModelInferRequest, within(5, content=within(3, content=bytes(16)) * 256)),
    "samples": (oip.ModelInferRequest, within(5, 5, content=within(6, content=bytes(8 * MIB)))),
    "samples in pieces": (oip.ModelInferRequest, within(5, 5, content=within(6, content=bytes(8192)) * 1024)),
    "two lists by turns": (
        oip.ModelInferRequest,
        within(5, 5, content=b"".join(b"".join(both) for both in zip(grown(6, 4), grown(7, 8), strict=True))),
    ),
}


@pytest.mark.parametrize("shape", KEPT)
def test_a_message_takes_no_more_memory_than_is_counted(shape: str) -> None:
    """What the library shows of it in the end may be a few bytes."""
    kind, wire = KEPT[shape]
    unpack(kind, wire)  # code that runs for the first time is read from the disk
    came, took = taking(lambda: unpack(kind, wire))
    assert isinstance(came.message, kind)
    assert came.wire_bytes == len(wire)
    assert took < 1.25 * came.kept_bytes + MIB  # the allocator has its own waste
    assert came.kept_bytes < 3 * len(wire) + MIB
    assert took > len(wire) / 2 - MIB, "the kernel counts it elsewhere"


def test_what_may_come_is_unpacked() -> None:
    clips = oip.ModelInferRequest(model_name="timbre", id="7")
    tensor = clips.inputs.add(name="audio", datatype="BYTES", shape=[256])
    tensor.contents.bytes_contents.extend([b"clip"] * 256)
    tensor.parameters["sample_rate"].int64_param = 16_000
    clips.outputs.add(name="emotion").parameters["binary"].bool_param = True
    clips.parameters["key"].string_param = "x" * 5000
    samples = oip.ModelInferRequest(raw_input_contents=[bytes(5 << 20)])
    samples.inputs.add(name="waveform", shape=[1, 1 << 40]).contents.fp32_contents.extend([0.5] * 500_000)
    options = pb.Options(model_version="1", key="k", min_confidence=0.5, filename="a.wav")
    asked: list[Message] = [
        *(clips, samples, oip.ModelInferRequest()),
        pb.PredictRequest(audio=bytes(5 << 20), options=options),
        pb.PredictRequest(pcm=pb.Pcm(samples=bytes(5 << 20), rate_hz=16_000), options=options),
        pb.ListenRequest(start=pb.ListenStart(rate_hz=16_000, options=options, hop_s=0.5)),
        ServerReflectionRequest(host="here", list_services="*"),
    ]
    for message in asked:
        assert unpack(type(message), message.SerializeToString()).message == message


NO_MESSAGES = [b"\x2a", b"\x2a\x05\x00", b"\xff" * 20, b"\x0b", b"\x0d\x00"]


@pytest.mark.parametrize(
    ("kind", "wire"), [*itertools.product(KINDS, NO_MESSAGES), (oip.ModelInferRequest, b"\x0a\x01\xff")]
)
def test_what_is_no_message_is_refused(kind: type[Message], wire: bytes) -> None:
    came = unpack(kind, wire)
    with pytest.raises(InvalidRequest, match=f"is no {kind.DESCRIPTOR.full_name}"):
        _ = came.message
