"""A saved version without a server."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving import audio
from serving.client import load
from serving.errors import ArtifactError
from tests.conftest import SERVED
from tests.service import Service
from tests.sounds import encode, voice

LONG = encode(voice(10.0), 16_000)


def test_it_answers_as_the_service_does(exported: Path, tmp_path: Path, service: Service) -> None:
    clip = tmp_path / "clip.wav"
    clip.write_bytes(LONG)
    here = load(exported / SERVED)(clip)
    there = httpx.post(f"{service.url}/predict", files={"file": ("clip.wav", LONG)}, timeout=30).json()
    mine = here.as_dict()
    for key in ("emotion", "filename", "model_version", "duration_s"):
        assert mine[key] == there[key]
    assert mine["all_emotions"] == pytest.approx(there["all_emotions"], abs=1e-5)
    assert len(mine["segments"]) == len(there["segments"])


def test_bytes_and_samples_will_do_and_nothing_is_named_when_unsure(exported: Path) -> None:
    hear = load(str(exported / SERVED))
    answer = hear(LONG, min_confidence=1.0)
    assert answer.emotion is None
    assert answer.filename is None
    assert set(answer.all_emotions) == set(hear.labels)
    samples = (voice(10.0) * np.iinfo(np.int16).max).astype(np.int16)
    assert hear((samples, 16_000)).all_emotions == pytest.approx(answer.all_emotions, abs=1e-3)


def test_one_file_is_enough(exported: Path, tmp_path: Path) -> None:
    """The ONNX file says of itself what model.json does, wherever it is taken."""
    file = tmp_path / "mailed.onnx"
    file.write_bytes((exported / SERVED / "model.onnx").read_bytes())
    answer = load(file)(LONG)
    assert answer == dataclasses.replace(load(exported / SERVED)(LONG), timing_ms=answer.timing_ms)


def test_a_file_that_is_no_version_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        load(tmp_path / "nowhere.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load the model"):
        load(tmp_path / "noise.onnx")


def test_what_is_wrong_is_told(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        load(tmp_path)
    hear = load(exported / SERVED, audio.Limits(max_duration_s=5))
    with pytest.raises(audio.RequestError, match="over 5 s"):
        hear(LONG)
    with pytest.raises(FileNotFoundError):
        hear(tmp_path / "nowhere.wav")
