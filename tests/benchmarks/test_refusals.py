from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load import Load
from benchmarks.record import FOLDER
from benchmarks.refusals import CROWDS, PERMITS, refusals, refused, splits, summary, table


@pytest.mark.timed  # processor times of one load and of another are compared
def test_a_crowd_is_refused_and_both_sides_are_measured(tmp_path: Path) -> None:
    results = refusals(tmp_path, rounds=1, seconds=0.5)
    assert results["cases"].keys() == splits().keys()
    for case in results["cases"].values():
        (once,) = case["rounds"]
        assert once["quiet"]["clients"] == PERMITS
        assert once["quiet"]["errors"] == 0  # as many clients as permits: nobody is refused
        assert once["quiet"]["server_cpu_ms"] > 0
        for name in CROWDS:
            away = once[name]["refused"]
            assert once[name]["errors"] == away["refusals"] > 0
            assert 0 <= away["p50_ms"] <= away["p99_ms"] <= away["max_ms"]
            assert away["server_cpu_ms"] < once["quiet"]["server_cpu_ms"]
    told = json.loads((tmp_path / "refusals.json").read_text())
    assert told["provenance"]["commit"]
    assert (tmp_path / "refusals.md").read_text() == table(told["cases"])


def test_the_table_is_that_of_what_was_measured() -> None:
    results = json.loads((FOLDER / "refusals.json").read_text())
    if "cases" not in results:
        pytest.skip("needs results that have cases, which `python -m benchmarks refusals` makes on a quiet machine")
    assert (FOLDER / "refusals.md").read_text() == table(results["cases"])
    assert not results["provenance"]["commit"].endswith("+changes")
    for case in results["cases"].values():
        assert summary(case["rounds"]) == case["summary"]


def test_the_load_has_cores_of_its_own_where_there_are_several() -> None:
    found = splits()
    assert found["shared"] == (os.sched_getaffinity(0),) * 2
    assert ("apart" in found) == (len(os.sched_getaffinity(0)) > 1)
    servers, ours = found.get("apart", ({0}, {1}))
    assert len(ours) == 1
    assert not servers & ours


def test_refusals_within_20_ms_are_counted() -> None:
    told = refused(Load(1.0, refused_s=[0.001, 0.019, 0.02, 0.4]))
    assert (told["within_20_ms"], told["max_ms"]) == (0.5, 400.0)
    with pytest.raises(RuntimeError, match="Nobody was refused"):
        refused(Load(1.0))


def test_the_ratio_is_of_each_round() -> None:
    def once(quiet: float, crowded: float) -> dict[str, dict[str, Any]]:
        load = {"per_second": 1.0, "p99_ms": 9.0, "generator": {"lag_p99_ms": 1.0}}
        away = {"refusals": 3, "p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0, "within_20_ms": 1.0, "server_cpu_ms": 0.1}
        crowds = {name: {**load, "p50_ms": crowded, "refused": away} for name in CROWDS}
        return {"quiet": {**load, "p50_ms": quiet, "server_cpu_ms": 3.0}, **crowds}

    assert summary([once(10, 11), once(20, 24), once(40, 60)])["crowded"]["latency_ratio"] == 1.2
