from __future__ import annotations

import contextlib

import onnxruntime
import pytest

from benchmarks.bench import Bench
from benchmarks.parts import offline
from benchmarks.parts.offline import EXPORTED, decoding, front_end, precisions, resampling
from benchmarks.sounds import voice
from benchmarks.tables import offline_section
from serving.formats import open_source
from training.spec import AUDIO


def test_the_front_end_gives_what_librosa_gives() -> None:
    found = front_end(repeats=3)
    assert found["largest_difference"] < 1e-3
    assert found["times_as_fast"] == pytest.approx(found["librosa_ms"] / found["ours_ms"], abs=0.02)


def test_every_format_that_is_taken_is_decoded() -> None:
    found = {one["format"]: one for one in decoding(repeats=1)}
    assert {name.split()[0] for name in found} == {"WAV", "AIFF", "FLAC", "OGG", "MP3", "M4A", "WebM"}
    assert all(one["ms"] > 0 for one in found.values())
    for name, encoded, rate_hz in offline._FORMATS:
        with contextlib.closing(open_source(encoded(voice(1.0, rate_hz), rate_hz))) as source:
            assert source.rate_hz == rate_hz, name


def test_every_rate_is_resampled() -> None:
    rates = [one["rate_hz"] for one in resampling(repeats=1)]
    assert (min(rates), max(rates)) == (8_000, 96_000)
    assert AUDIO.rate_hz in rates


def test_every_precision_is_another_graph_with_the_same_shape() -> None:
    graphs = precisions(EXPORTED / "2")
    assert list(graphs) == ["fp32", "fp16", "int8"]
    assert graphs["fp16"] == (EXPORTED / "2" / "model.fp16.onnx").read_bytes()
    kinds = {}
    for name, data in graphs.items():
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape[1:] == [AUDIO.window_samples]
        kinds[name] = {word for word in ("QuantizeLinear", "FLOAT16") if word.encode() in data}
    assert kinds["fp32"] == set()
    assert "QuantizeLinear" in kinds["int8"]
    assert len(graphs["int8"]) < len(graphs["fp16"]) < len(graphs["fp32"])


def test_the_networks_are_measured_in_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "BATCHES", (1, 2))
    monkeypatch.setattr(offline, "_LEAST", 1)
    found = offline.measure(Bench(scale=0.01, say=lambda _: None))
    assert {(one["version"], one["precision"], one["threads"], one["batch"]) for one in found["network"]} == {
        (version, precision, threads, batch)
        for version in "12"
        for precision in ("fp32", "fp16", "int8")
        for threads in (1, 2)
        for batch in (1, 2)
    }
    assert "times as fast" in offline_section(found)
