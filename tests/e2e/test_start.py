from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from serving.errors import RuntimeUnavailable
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub
from serving.runtime import choose_runtime
from tests.conftest import ROOT, SERVED
from tests.service import Service, free_port, metric, refusal, running, until, wait_until_ready
from tests.sounds import encode, voice


@pytest.fixture
def models(exported: Path, tmp_path: Path) -> Path:
    """A copy of the committed models, to be spoiled."""
    return shutil.copytree(exported, tmp_path / "exported", ignore=shutil.ignore_patterns("report"))


def test_a_damaged_model_is_refused_by_name(models: Path) -> None:
    (models / SERVED / "model.onnx").write_bytes(b"damaged")
    result = refusal(models=models)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Timbre does not start. {models / SERVED / 'model.onnx'}: its SHA-256 is")
    assert "Traceback" not in result.stderr


def test_another_schema_is_refused_by_name(models: Path) -> None:
    path = models / SERVED / "model.json"
    description = json.loads(path.read_text())
    description["metadata"]["schema_version"] = 2
    path.write_text(json.dumps(description))
    result = refusal(models=models)
    assert result.returncode == 1
    assert f"{path}: schema version 2 is not read here" in result.stderr


def test_the_log_says_where_it_answers_over_either(tmp_path: Path) -> None:
    port = free_port()
    for grpc_port, also in ((port, f" and grpc://127.0.0.1:{port}"), (0, "")):
        with running(tmp_path / "log.txt", grpc_port=grpc_port) as service:
            assert f"answers at {service.url}{also}\n" in service.log.read_text()


def test_no_model_at_all_is_refused(tmp_path: Path) -> None:
    result = refusal(models=tmp_path)
    assert result.returncode == 1
    assert f"{tmp_path}: no exported version here" in result.stderr


def test_cuda_without_a_gpu_is_refused_and_what_is_missing_is_told() -> None:
    try:
        choose_runtime("cuda", 0, 0)
    except RuntimeUnavailable as error:
        missing = str(error)
    else:
        pytest.skip("there is a GPU here")
    result = refusal(runtime="cuda")
    assert result.returncode == 1
    assert f"Timbre does not start. {missing}" in result.stderr
    assert "built without CUDA" in missing or "no NVIDIA device" in missing
    assert "Traceback" not in result.stderr


def test_a_wrong_setting_is_refused_as_wrong_usage() -> None:
    result = refusal(colour="red")
    assert result.returncode == 2
    assert "TIMBRE_COLOUR is not a setting" in result.stderr


def test_a_port_in_use_is_told(service: Service) -> None:
    port = service.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "serving", "serve"]
    env = {"PATH": "/usr/bin:/bin", "TIMBRE_PORT": port}
    second = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert second.returncode == 1
    told = f"Timbre does not start. {service.url} cannot be listened on: Address already in use."
    assert told in second.stderr
    assert httpx.get(f"{service.url}/health").status_code == 200


def test_settings_are_honoured(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", max_duration_s=2, max_upload_mib=1) as service:
        long = httpx.post(f"{service.url}/predict", files={"file": encode(voice(2.1), 16_000)})
        assert long.json()["error"]["max_duration_s"] == 2
        large = httpx.post(f"{service.url}/predict", files={"file": bytes(2 << 20)})
        assert large.json()["error"]["max_bytes"] == 1 << 20


def test_a_model_that_onnx_runtime_cannot_load_is_refused_by_name(models: Path) -> None:
    """Its checksum is right; it is no model all the same."""
    damaged = b"no model"
    (models / SERVED / "model.onnx").write_bytes(damaged)
    path = models / SERVED / "model.json"
    description = json.loads(path.read_text())
    description["sha256"] = hashlib.sha256(damaged).hexdigest()
    path.write_text(json.dumps(description))
    result = refusal(models=models)
    assert result.returncode == 1
    assert str(models / SERVED / "model.onnx") in result.stderr
    assert "Traceback" not in result.stderr


def test_whatever_goes_wrong_at_start_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has thought of a folder for metrics that is not there; the service would else be starting for ever."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "missing"))
    result = refusal()
    assert result.returncode == 1
    assert "Timbre does not start. FileNotFoundError: [Errno 2] No such file or directory" in result.stderr
    assert str(tmp_path / "missing") in result.stderr
    assert "Traceback" in result.stderr  # in the log, for whoever has to find out


def begin(service: Service, body: bytes, announced: int) -> socket.socket:
    """A connection on which so much of a body has been sent, and has come."""
    connection = service.connect()
    head = f"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: audio/wav\r\nContent-Length: {announced}\r\n\r\n"
    connection.sendall(head.encode() + body)
    with httpx.Client(base_url=service.url) as client:
        assert until(lambda: metric(client, "timbre_upload_bytes") == len(body))
    return connection


def test_what_is_in_flight_is_answered_before_a_stop(tmp_path: Path) -> None:
    sound = encode(voice(1.0), 16_000)
    with running(tmp_path / "log.txt") as service, begin(service, sound[:1000], len(sound)) as slow:
        service.process.send_signal(signal.SIGTERM)
        assert until(lambda: refuses(service))
        slow.sendall(sound[1000:])
        answer = slow.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        assert service.process.wait(60) == 0


def refuses(service: Service) -> bool:
    """Whether its door is closed."""
    try:
        service.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_ten_minutes_take_little_memory(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt") as service:
        tone = (0.3 * np.sin(np.arange(600 * 16_000, dtype=np.float32) / 10)).astype(np.float32)
        whole = encode(tone, 16_000, "FLAC")
        before = service.peak_bytes()
        answer = httpx.post(f"{service.url}/predict", files={"file": whole}, timeout=120).json()
        assert answer["duration_s"] == 600
        assert len(answer["segments"]) == 399
        # 38 MB are the samples themselves.
        assert service.peak_bytes() - before < 80 << 20


def test_a_stop_is_clean_leaves_no_files_and_waits_for_no_body_that_stalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, log = tmp_path / "scratch", tmp_path / "log.txt"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    sound = encode(voice(1.0), 16_000)
    with running(log, upload_timeout_s=5) as service:
        httpx.post(f"{service.url}/predict", files={"file": sound}).raise_for_status()
        with begin(service, sound[:1000], len(sound)) as stalled:
            assert service.stop() == 0
            assert stalled.recv(65536).startswith(b"HTTP/1.1 408")
    # Not even the device number that ONNX Runtime's telemetry would keep.
    assert list(scratch.iterdir()) == []
    assert "Traceback" not in log.read_text()


def test_it_runs_under_bentoml_serve_too(tmp_path: Path, exported: Path) -> None:
    """BentoML's own command loads the same service; what cannot start is refused once, not retried for ever."""
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Timbre", "--port", "0"]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TIMBRE_MODELS": str(tmp_path), "BENTOML_DO_NOT_TRACK": "1"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 1
    assert "Timbre does not start." in result.stderr
    assert "Traceback" not in result.stderr

    port, grpc_port = free_port(), free_port()
    command[-1] = str(port)
    env["TIMBRE_GRPC_PORT"] = str(grpc_port)
    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env | {"TIMBRE_MODELS": str(exported)}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_until_ready(Service(process, f"http://127.0.0.1:{port}", tmp_path / "log.txt"))
        answer = httpx.post(f"http://127.0.0.1:{port}/predict", files={"file": encode(voice(1.0), 16_000)}, timeout=30)
        assert answer.json()["model_version"] == SERVED
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            told = TimbreStub(channel).Predict(pb.PredictRequest(audio=encode(voice(1.0), 16_000)))
        assert told.model_version == SERVED
    finally:
        process.terminate()
        process.wait(60)
