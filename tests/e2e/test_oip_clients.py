"""Triton's and KServe's own clients, unmodified, in an environment of their own, against the service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import ROOT, SERVED
from tests.service import Service
from tests.sounds import encode

PRECISION = 1e-5
Told = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clients")
    uv = [str(Path(sys.executable).with_name("uv")), "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, folder], check=True)
    lock = ROOT / "requirements" / "clients.txt"
    subprocess.run([*uv, "pip", "install", "--python", folder, "-r", lock], check=True, timeout=240)
    return str(folder / "bin" / "python")


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


@pytest.fixture(scope="module")
def clips(shared_samples: list[Path]) -> list[Path]:
    return shared_samples[::4]


@pytest.fixture(scope="module")
def expected(service: Service, clips: list[Path]) -> list[dict[str, Any]]:
    """What /predict says of the clips, and of the sound that the scripts make."""
    sound = (0.4 * np.sin(np.arange(16_000) ** 1.2 / 20)).astype(np.float32)
    files = [*(clip.read_bytes() for clip in clips), encode(sound, 16_000, "WAV", "FLOAT")]
    return [httpx.post(f"{service.url}/predict", files={"file": file}).json() for file in files]


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


@pytest.mark.parametrize("who", ["http-binary", "http-json-out", "http-aio", "grpc", "grpc-aio"])
def test_triton_hears_the_clips(triton: Told, expected: list[dict[str, Any]], who: str) -> None:
    (told,) = triton[who]
    check(told, expected[:-1])


@pytest.mark.parametrize("who", ["http-json", "http-waveform", "grpc-waveform"])
def test_triton_sends_samples(triton: Told, expected: list[dict[str, Any]], who: str) -> None:
    (told,) = triton[who]
    check(told, expected[-1:])


def test_triton_streams(triton: Told, expected: list[dict[str, Any]]) -> None:
    for told, answer in zip(triton["grpc-stream"], expected[:-1], strict=True):
        assert told["error"] is None
        check(told, [answer])


@pytest.mark.parametrize("who", ["http-info", "grpc-info"])
def test_triton_asks_what_there_is(triton: Told, exported: Path, who: str) -> None:
    (told,) = triton[who]
    assert (told["live"], told["ready"], told["model"], told["version"]) == (True, True, True, True)
    assert told["server"] == "timbre"
    assert [tensor["name"] for tensor in told["metadata"]["inputs"]] == ["audio", "waveform"]
    assert [tensor["name"] for tensor in told["metadata"]["outputs"]] == ["emotion", "confidence", "probabilities"]
    assert told["index"][0]["state"] == "READY"
    labels = json.loads((exported / SERVED / "model.json").read_text())["metadata"]["labels"]
    assert told["config"]["parameters"]["labels"]["string_value"].split(",") == labels


@pytest.mark.parametrize("who", ["http-only", "grpc-only"])
def test_triton_gets_only_what_it_requests(triton: Told, who: str) -> None:
    assert triton[who] == [{"outputs": ["emotion"]}]


@pytest.mark.parametrize(("who", "status"), [("http-refused", "415"), ("grpc-refused", "StatusCode.INVALID_ARGUMENT")])
def test_triton_is_told_why(triton: Told, who: str, status: str) -> None:
    (told,) = triton[who]
    assert told["status"] == status
    assert told["message"].startswith("unsupported_audio: ")


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
