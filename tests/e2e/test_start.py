from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.service import refusal, running
from tests.sounds import encode, voice


@pytest.fixture
def models(exported: Path, tmp_path: Path) -> Path:
    """A copy of the committed models, to be spoiled."""
    return shutil.copytree(exported, tmp_path / "exported", ignore=shutil.ignore_patterns("report"))


def test_a_damaged_model_is_refused_by_name(models: Path) -> None:
    (models / "1" / "model.onnx").write_bytes(b"damaged")
    result = refusal(models=models)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Timbre does not start. {models / '1' / 'model.onnx'}: its SHA-256 is")
    assert "Traceback" not in result.stderr


def test_another_schema_is_refused_by_name(models: Path) -> None:
    path = models / "1" / "model.json"
    description = json.loads(path.read_text())
    description["metadata"]["schema_version"] = 2
    path.write_text(json.dumps(description))
    result = refusal(models=models)
    assert result.returncode == 1
    assert f"{path}: schema version 2 is not read here" in result.stderr


def test_no_model_at_all_is_refused(tmp_path: Path) -> None:
    result = refusal(models=tmp_path)
    assert result.returncode == 1
    assert f"{tmp_path}: no exported version here" in result.stderr


def test_a_wrong_setting_is_refused_as_wrong_usage() -> None:
    result = refusal(colour="red")
    assert result.returncode == 2
    assert "TIMBRE_COLOUR is not a setting" in result.stderr


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with running(tmp_path / "first.txt") as first:
        port = first.url.rsplit(":", 1)[1]
        command = [sys.executable, "-m", "serving", "serve"]
        env = {"PATH": "/usr/bin:/bin", "TIMBRE_PORT": port}
        second = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode != 0
        assert "address already in use" in second.stderr
        assert httpx.get(f"{first.url}/health").status_code == 200


def test_settings_are_honoured(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", max_duration_s=2, max_upload_mib=1) as service:
        long = httpx.post(f"{service.url}/predict", files={"file": encode(voice(2.1), 16_000)})
        assert long.json()["error"]["max_duration_s"] == 2
        large = httpx.post(f"{service.url}/predict", files={"file": bytes(2 << 20)})
        assert large.json()["error"]["max_bytes"] == 1 << 20


def test_a_stop_is_clean_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, log = tmp_path / "scratch", tmp_path / "log.txt"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    with running(log) as service:
        httpx.post(f"{service.url}/predict", files={"file": encode(voice(1.0), 16_000)}).raise_for_status()
        assert service.stop() == 0
    # Not even the device number that ONNX Runtime's telemetry would keep.
    assert list(scratch.iterdir()) == []
    assert "Traceback" not in log.read_text()


def test_it_runs_under_bentoml_serve_too(tmp_path: Path, exported: Path) -> None:
    """BentoML's own command loads the same service; what cannot start is refused once, not retried for ever."""
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Timbre", "--port", "0"]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TIMBRE_MODELS": str(tmp_path), "BENTOML_DO_NOT_TRACK": "1"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "Timbre does not start." in result.stderr
