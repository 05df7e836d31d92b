from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.load import Load
from benchmarks.refusals import PERMITS, refusals, refused, summary


def test_a_crowd_is_refused_and_both_sides_are_measured(tmp_path: Path) -> None:
    results = refusals(tmp_path, rounds=1, seconds=1.5)
    (once,) = results["rounds"]
    assert once["quiet"]["clients"] == PERMITS
    assert once["quiet"]["errors"] == 0  # as many clients as permits: nobody is refused
    assert once["crowded"]["errors"] == once["refused"]["refusals"] > 0
    assert 0 < once["refused"]["p50_ms"] <= once["refused"]["p99_ms"] <= once["refused"]["max_ms"]
    assert json.loads((tmp_path / "refusals.json").read_text())["provenance"]["commit"]
    assert "within 20 ms" in (tmp_path / "refusals.md").read_text()


def test_refusals_within_20_ms_are_counted() -> None:
    told = refused(Load(1.0, refused_s=[0.001, 0.019, 0.02, 0.4]))
    assert (told["within_20_ms"], told["max_ms"]) == (0.5, 400.0)
    with pytest.raises(RuntimeError, match="Nobody was refused"):
        refused(Load(1.0))


def test_the_ratio_is_of_each_round() -> None:
    def once(quiet: float, crowded: float) -> dict[str, dict[str, float]]:
        load = {"per_second": 1.0, "p99_ms": 9.0}
        away = {"refusals": 3, "p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0, "within_20_ms": 1.0}
        return {"quiet": {**load, "p50_ms": quiet}, "crowded": {**load, "p50_ms": crowded}, "refused": away}

    assert summary([once(10, 11), once(20, 24), once(40, 60)])["latency_ratio"] == 1.2
