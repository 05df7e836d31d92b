"""How soon measurements of live streams are out, as the benchmark tells it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.live import live, missing, summary, table
from benchmarks.record import FOLDER


def load(late_s: list[float], **more: Any) -> dict[str, Any]:
    quiet = {"overdue_s": [0.001] * 4, "missing": 0, "errors": 0, "server_cores": 0.5, "sender_cores": 0.1}
    return {"late_s": late_s, **quiet, **more}


def test_rounds_are_taken_together_and_the_worst_is_told() -> None:
    told = summary([load([0.01] * 50), load([0.01] * 49 + [0.2], missing=2, server_cores=0.7)])
    assert told["late_ms"] == {"p50": 10.0, "p95": 10.0, "p99": 11.9, "max": 200.0}
    assert (told["measurements"], told["missing"], told["within"]) == (100, 2, 0.99)
    assert told["p99_ms_of_rounds"] == [10.0, 106.9]
    assert told["sender_late_ms"]["p99"] == 1.0
    assert told["server_cores"] == 0.6


def test_a_hop_without_a_measurement_is_missing() -> None:
    end = {"type": "utterance.end", "utterance": 1, "start_s": 1.0, "end_s": 5.5}  # three hops
    measurement = {"type": "measurement", "utterance": 1}
    session = {"type": "session", "hop_s": 1.5}
    assert missing([session, *[measurement] * 3, end]) == 0
    assert missing([session, measurement, {**measurement, "utterance": 2}, end]) == 2
    assert missing([session, *[measurement] * 4, end]) == 0  # one more, in the pause behind it


def test_streams_are_measured_in_real_time(tmp_path: Path) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("needs espeak-ng, which is not on this machine")
    results = live(tmp_path, rounds=1, seconds=3.0, streams=(2,), in_step=3)
    cases = results["cases"]
    assert [(case["way"], case["streams"], case["in_step"]) for case in cases] == [
        ("WebSocket", 2, False),
        ("WebSocket", 3, True),
        ("gRPC", 2, False),
        ("gRPC", 3, True),
    ]
    for case in cases:
        assert (case["missing"], case["errors"]) == (0, 0)
        assert case["measurements"] >= case["streams"] * case["in_step"] >= 0
        assert 0 < case["late_ms"]["p50"] <= case["late_ms"]["p99"] <= case["late_ms"]["max"]
        assert 0 < case["server_cores"] < results["cores"]
    written = json.loads((tmp_path / "live.json").read_text())
    assert written["provenance"]["commit"]
    assert written["cases"] == cases
    assert (tmp_path / "live.md").read_text() == table(results)
    assert "| 3 in step | gRPC |" in table(results)


def test_what_was_measured_is_in_time() -> None:
    """The committed results: 20 streams on two cores, 150 ms."""
    if not (FOLDER / "live.json").exists():
        pytest.skip("needs benchmarks/results/live.json, which `python -m benchmarks live` makes on a quiet machine")
    results = json.loads((FOLDER / "live.json").read_text())
    assert (FOLDER / "live.md").read_text() == table(results)
    assert results["cores"] == 2
    assert results["seconds"] >= 30
    assert not results["provenance"]["commit"].endswith("+changes")
    twenty = [case for case in results["cases"] if case["streams"] == 20 and not case["in_step"]]
    assert {case["way"] for case in twenty} == {"WebSocket", "gRPC"}
    for case in twenty:
        assert case["late_ms"]["p99"] <= results["within_ms"] == 150, case
        assert (case["missing"], case["errors"]) == (0, 0)
