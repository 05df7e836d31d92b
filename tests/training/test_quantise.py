from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.sounds import voice
from training import quantise as quantise_module
from training.config import QuantiseConfig, TrainConfig
from training.quantise import eight_bits, quantise
from training.spec import AUDIO


@pytest.fixture
def config(version: Path, settings: TrainConfig, tmp_path: Path) -> QuantiseConfig:
    shutil.copytree(version, tmp_path / "exported" / "7")
    return QuantiseConfig(version="7", out=tmp_path / "exported", data=settings.data, results=tmp_path / "results")


def timed(monkeypatch: pytest.MonkeyPatch, int8_ms: float) -> None:
    monkeypatch.setattr(quantise_module, "time_in_turn", lambda _: {"float": 2.0, "int8": int8_ms})


def test_what_pays_is_shipped_and_what_no_longer_does_is_taken_back(
    config: QuantiseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = config.out / config.version
    monkeypatch.setattr(quantise_module, "UAR_LOSS", 1.0)
    timed(monkeypatch, 1.0)
    results = quantise(config)
    assert results["shipped"]
    assert results["times_as_fast"] == 2.0
    assert json.loads((config.results / "int8.json").read_text()) == results
    described = json.loads((folder / "model.json").read_text())
    assert described["precisions"]["int8"]["file"] == "model.int8.onnx"
    assert "fp16" in described["precisions"]
    assert (folder / "model.int8.onnx").stat().st_size < 0.5 * (folder / "model.onnx").stat().st_size

    timed(monkeypatch, 1.9)
    assert not quantise(config)["shipped"]
    assert json.loads((folder / "model.json").read_text())["precisions"].keys() == {"fp16"}
    assert not (folder / "model.int8.onnx").exists()


def test_what_costs_too_much_is_not_shipped_and_the_test_part_does_not_decide(
    config: QuantiseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []

    def graded(_: Any, probabilities: Any) -> dict[str, float]:
        heard.append(len(probabilities))
        return {"uar": {1: 0.9, 2: 0.88, 3: 0.9, 4: 0.9}[len(heard)]}  # learned: float, int8; test: float, int8

    monkeypatch.setattr(quantise_module, "scores", graded)
    timed(monkeypatch, 1.0)
    results = quantise(config)
    assert results["uar"] == {"learned": {"float": 0.9, "int8": 0.88}, "test": {"float": 0.9, "int8": 0.9}}
    assert not results["shipped"]
    assert heard == [results["clips"]["learned"]] * 2 + [results["clips"]["test"]] * 2


def test_clips_that_gave_the_ranges_do_not_decide(config: QuantiseConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise_module, "_CALIBRATION_CLIPS", 8)
    timed(monkeypatch, 1.0)
    clips = quantise(config)["clips"]
    learned = len(json.loads((config.out / "7" / "report" / "split.json").read_text())["train"]["clips"])
    assert clips == {"ranges": 8, "learned": learned - 8, "test": 16}


def test_eight_bits_say_nearly_the_same_and_leave_the_front_end(version: Path) -> None:
    data = (version / "model.onnx").read_bytes()
    windows = np.stack([voice(3.0, AUDIO.rate_hz, pitch_hz=100 + 20 * n, seed=n) for n in range(8)]).astype(np.float32)
    quantised = eight_bits(data, iter([windows]))
    one, other = (
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"waveform": windows})[0]
        for graph in (data, quantised)
    )
    assert np.abs(one - other).max() < 0.1
    assert not np.array_equal(one, other)


def test_a_version_that_is_not_there_is_told_with_those_that_are(config: QuantiseConfig) -> None:
    with pytest.raises(FileNotFoundError, match=r"no version 9 in .*; there are 7"):
        quantise(dataclasses.replace(config, version="9"))
