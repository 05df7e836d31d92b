"""Serving's own requirements in an environment of their own: nothing of training, and it answers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.environments import UV, environment_of
from tests.service import running
from tests.sounds import encode, encode_av, voice

MAX_RESIDENT_BYTES = 350 << 20


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return environment_of("serving.txt", tmp_path_factory.mktemp("serving-environment"))


@pytest.mark.parametrize("module", ["torch", "librosa", "lightning", "sklearn", "onnx", "matplotlib", "numba"])
def test_it_holds_nothing_of_training(python: str, module: str) -> None:
    found = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
    assert found.returncode != 0
    assert b"ModuleNotFoundError" in found.stderr


def test_it_is_consistent(python: str) -> None:
    subprocess.run([UV, "pip", "check", "--python", python], check=True)


def test_it_answers_in_little_memory(python: str, tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", python=python) as service:
        sound = voice(3.0, 48_000)
        for data in (encode(sound, 48_000), encode_av(sound, 48_000, "ipod", "aac")):
            answer = httpx.post(f"{service.url}/predict", files={"file": data}, timeout=30)
            assert answer.status_code == 200, answer.text
        assert service.peak_bytes() < MAX_RESIDENT_BYTES


def test_the_command_line_runs_and_says_what_is_missing(python: str, tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(encode(voice(1.0), 16_000))

    def timbre(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "serving", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert "clip.wav" in timbre("predict", tmp_path / "clip.wav").stdout
    assert timbre("score", tmp_path, "--out", tmp_path / "table.csv").returncode == 0
    assert "clip.wav" in (tmp_path / "table.csv").read_text()
    for optional in (("--out", f"{tmp_path}/table.parquet"), ("--out", f"{tmp_path}/ray.csv", "--engine", "ray")):
        lacking = timbre("score", tmp_path, *optional)
        assert lacking.returncode == 2
        assert "`make extras` installs it" in lacking.stderr
