"""Triton's and KServe's own clients, unmodified, in an environment of their own, against the service."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from serving.proto.inference import inference_pb2
from serving.proto.inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.transports.oip.model import LOADING, STATISTICS
from tests.conftest import ROOT, SERVED, SHARED
from tests.environments import environment_of
from tests.service import Service
from tests.sounds import encode, voice

PRECISION = 1e-5
Told = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return environment_of("clients.txt", tmp_path_factory.mktemp("clients"))


def run(python: str, script: str, service: Service, clips: list[Path]) -> Told:
    path = ROOT / "tests" / "clients" / script
    address = service.url.removeprefix("http://")
    result = subprocess.run(
        [python, path, address, service.grpc, *clips], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    told: Told = {}
    for line in result.stdout.splitlines():
        said = json.loads(line)
        told.setdefault(said.pop("client"), []).append(said)
    return told


def both(*cases: str) -> list[str]:
    """A case of Triton's blocking client, and the same of its asyncio client."""
    return [way for case in cases for way in (case, case.replace("-", "-aio-", 1))]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real clips where there are some, else made ones: of both rates, one of them stereo."""
    if real := sorted((SHARED / "samples").glob("*.wav"))[::4]:
        return real
    folder = tmp_path_factory.mktemp("clips")
    made = {
        "one.wav": encode(voice(1.5, 48_000), 48_000),
        "two.wav": encode(np.stack(2 * [voice(4.0, 48_000, seed=1)], axis=1), 48_000),
        "three.wav": encode(voice(2.0, 24_414, seed=2), 24_414),
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in made]


@pytest.fixture(scope="module")
def expected(service: Service, clips: list[Path]) -> list[dict[str, Any]]:
    """What /predict says of the clips, and of the sound that the scripts make."""
    return [predicted(service, data) for data in [*(clip.read_bytes() for clip in clips), made(16_000)]]


def made(rate_hz: int) -> bytes:
    """The sound that the scripts make, as a file of that rate."""
    sound = (0.4 * np.sin(np.arange(16_000) ** 1.2 / 20)).astype(np.float32)
    return encode(sound, rate_hz, "WAV", "FLOAT")


def predicted(service: Service, data: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.post(f"{service.url}/predict", files={"file": data}).json()
    return answer


@pytest.fixture(scope="module")
def triton(python: str, service: Service, clips: list[Path]) -> Told:
    return run(python, "triton.py", service, clips)


@pytest.fixture(scope="module")
def kserve(python: str, service: Service, clips: list[Path]) -> Told:
    return run(python, "kserve_clients.py", service, clips)


def check(told: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    assert told["emotion"] == [answer["emotion"] for answer in expected]
    assert told["confidence"] == pytest.approx([answer["confidence"] for answer in expected], abs=PRECISION)
    probabilities = [list(answer["all_emotions"].values()) for answer in expected]
    assert np.shape(told["probabilities"]) == np.shape(probabilities)
    assert np.allclose(told["probabilities"], probabilities, atol=PRECISION)
    assert told["labels"].split(",") == list(expected[0]["all_emotions"])


@pytest.mark.parametrize("who", both("http-binary", "http-json-out", "grpc-binary"))
def test_triton_hears_the_clips(triton: Told, expected: list[dict[str, Any]], who: str) -> None:
    (told,) = triton[who]
    check(told, expected[:-1])


@pytest.mark.parametrize("who", both("http-json", "http-waveform", "grpc-waveform"))
def test_triton_sends_samples(triton: Told, expected: list[dict[str, Any]], who: str) -> None:
    (told,) = triton[who]
    check(told, expected[-1:])


@pytest.mark.parametrize("who", both("http-rate", "grpc-rate"))
def test_triton_says_the_rate(triton: Told, service: Service, who: str) -> None:
    """As a whole number and as a float, in the request's parameters; the same samples at another rate differ."""
    slower = predicted(service, made(8_000))
    assert slower["all_emotions"] != predicted(service, made(16_000))["all_emotions"]
    assert len(triton[who]) == 2
    for told in triton[who]:
        check(told, [slower])


@pytest.mark.parametrize("who", both("http-packed"))
def test_triton_packs_what_it_sends(triton: Told, expected: list[dict[str, Any]], who: str) -> None:
    assert len(triton[who]) == 2  # gzip and deflate
    for told in triton[who]:
        check(told, expected[:-1])


def test_a_bomb_is_refused_and_not_unpacked(service: Service) -> None:
    packed = gzip.compress(bytes(1 << 30), compresslevel=1)
    before = service.peak_bytes()
    answer = httpx.post(
        f"{service.url}/v2/models/timbre/infer", content=packed, headers={"Content-Encoding": "gzip"}, timeout=60
    )
    assert (answer.status_code, answer.json()["error"].split(":")[0]) == (413, "too_large")
    assert service.peak_bytes() - before < 256 << 20


@pytest.mark.parametrize("who", both("grpc-stream"))
def test_triton_streams(triton: Told, expected: list[dict[str, Any]], who: str) -> None:
    for told, answer in zip(triton[who], expected[:-1], strict=True):
        assert told["error"] is None
        check(told, [answer])


@pytest.mark.parametrize("who", both("http-info", "grpc-info"))
def test_triton_asks_what_there_is(triton: Told, exported: Path, who: str) -> None:
    (told,) = triton[who]
    assert (told["live"], told["ready"], told["model"], told["version"]) == (True, True, True, True)
    assert told["server"] == "timbre"
    assert [tensor["name"] for tensor in told["metadata"]["inputs"]] == ["audio", "waveform"]
    assert [tensor["name"] for tensor in told["metadata"]["outputs"]] == ["emotion", "confidence", "probabilities"]
    assert told["index"][0]["state"] == "READY"
    labels = json.loads((exported / SERVED / "model.json").read_text())["metadata"]["labels"]
    assert told["config"]["parameters"]["labels"]["string_value"].split(",") == labels
    if who.startswith("http"):  # Triton's message of gRPC has no place for it
        assert told["metadata"]["outputs"][2]["parameters"]["labels"].split(",") == labels


@pytest.mark.parametrize("who", both("http-only", "grpc-only"))
def test_triton_gets_only_what_it_requests(triton: Told, who: str) -> None:
    assert triton[who] == [{"outputs": ["emotion"]}]


@pytest.mark.parametrize(
    ("who", "times"), [(who, 1 + who.startswith("http")) for who in both("http-classes", "grpc-classes")]
)
def test_triton_gets_the_best_classes(triton: Told, expected: list[dict[str, Any]], who: str, times: int) -> None:
    """`value:index:label`; over HTTP in binary and in JSON."""
    assert len(triton[who]) == times
    for told in triton[who]:
        for row, answer in zip(told["classes"], expected[:-1], strict=True):
            emotions = answer["all_emotions"]
            parts = [text.split(":") for text in row]
            assert [label for _, _, label in parts] == sorted(emotions, key=emotions.get, reverse=True)[:3]
            assert [list(emotions)[int(index)] for _, index, _ in parts] == [label for _, _, label in parts]
            assert [float(value) for value, _, _ in parts] == pytest.approx(
                [emotions[label] for _, _, label in parts], abs=PRECISION
            )


@pytest.mark.parametrize("who", both("http-refused", "grpc-refused"))
def test_triton_is_told_why(triton: Told, who: str) -> None:
    (told,) = triton[who]
    assert told["status"] == ("415" if who.startswith("http") else "StatusCode.INVALID_ARGUMENT")
    assert told["message"].startswith("unsupported_audio: ")


@pytest.mark.parametrize("who", both("http-elsewhere", "grpc-elsewhere"))
def test_triton_is_told_where_else_to_look(triton: Told, who: str) -> None:
    """Statistics of all and of one, then loading and unloading."""
    word = "not_found" if who.startswith("http") else "method_not_allowed"
    status = "404" if who.startswith("http") else "StatusCode.UNIMPLEMENTED"
    assert [told["status"] for told in triton[who]] == [status] * 4
    statistics, loading = f"{word}: {STATISTICS}", f"{word}: {LOADING}"
    assert [told["message"] for told in triton[who]] == [statistics, statistics, loading, loading]


@pytest.mark.parametrize("who", both("http-nowhere", "grpc-nowhere"))
def test_triton_is_told_what_there_is_not(triton: Told, who: str) -> None:
    """Shared memory, and settings of traces and logs."""
    word = "[404] not_found: There is nothing at /v2/" if who.startswith("http") else "[StatusCode.UNIMPLEMENTED]"
    assert [told["told"].startswith(word) for told in triton[who]] == [True] * 5


def test_the_documented_data_for_perf_analyzer_are_the_clips(
    service: Service, clips: list[Path], expected: list[dict[str, Any]]
) -> None:
    """Sent as it sends them: a tensor's content as it is once the base64 is undone, with the shape beside it."""
    page = (ROOT / "docs" / "open-inference-protocol.md").read_text()
    block = re.search(r"## perf_analyzer\n.*?```python\n(.*?)```", page, re.DOTALL)
    assert block
    printed = subprocess.run([sys.executable, "-c", block[1], *clips], capture_output=True, check=True).stdout
    with grpc.insecure_channel(service.grpc) as channel:
        for step, answer in zip(json.loads(printed)["data"], expected[:-1], strict=True):
            (name, tensor), *others = step.items()
            request = inference_pb2.ModelInferRequest(model_name="timbre")
            request.inputs.add(name=name, datatype="BYTES", shape=tensor["shape"])
            request.raw_input_contents.append(base64.b64decode(tensor["content"]["b64"]))
            told = GRPCInferenceServiceStub(channel).ModelInfer(request)
            assert told.raw_output_contents[0][4:].decode() == answer["emotion"]
            assert np.frombuffer(told.raw_output_contents[1], "<f4") == pytest.approx([answer["confidence"]], abs=1e-5)
            assert not others


@pytest.mark.parametrize("who", ["rest-binary", "grpc-binary"])
def test_kserve_hears_the_clips(kserve: Told, expected: list[dict[str, Any]], who: str) -> None:
    (told,) = kserve[who]
    check(told, expected[:-1])


@pytest.mark.parametrize("who", ["rest-json", "grpc-typed"])
def test_kserve_sends_samples(kserve: Told, expected: list[dict[str, Any]], who: str) -> None:
    (told,) = kserve[who]
    check(told, expected[-1:])


@pytest.mark.parametrize("who", ["rest-info", "grpc-info"])
def test_kserve_asks_what_there_is(kserve: Told, who: str) -> None:
    assert kserve[who] == [{"live": True, "ready": True, "model": True}]


def test_kserve_is_told_why(kserve: Told) -> None:
    (told,) = kserve["rest-refused"]
    assert told["status"] == 415
    assert "unsupported_audio: " in told["message"]
