from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from benchmarks import beside as module
from benchmarks.beside import beside, summary, table
from benchmarks.peers import HERE, timbre
from benchmarks.profile import by_part, profile
from benchmarks.sounds import wav


def measured(per_second: float, p50_ms: float, memory: float) -> dict[str, Any]:
    load = {"per_second": per_second, "p50_ms": p50_ms, "p99_ms": 9.0, "server_cpu_ms": 1.0, "errors": 1}
    return {"resident_mb": memory, "loads": [load] * len(module.CLIENTS)}


def test_ratios_are_of_rounds_and_their_spread_is_told() -> None:
    found = {
        "timbre": [measured(400, 2, 200), measured(500, 4, 200), measured(900, 3, 200)],
        "slow": [measured(100, 8, 500), measured(100, 8, 400), measured(300, 6, 500)],
    }
    lines = summary(found)
    slow = lines["slow"]["loads"][0]
    assert slow["times_as_fast"] == [4.0, 3.0, 5.0]
    assert slow["latency_share"] == [0.5, 0.25, 0.5]
    assert slow["errors"] == 3
    assert lines["slow"]["memory_share"] == [0.4, 0.4, 0.5]
    assert "4.0 times as fast (3.0 to 5.0)" in table(lines)


def test_peers_are_measured_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEERS", {"timbre": timbre, "again": timbre})
    monkeypatch.setattr(module, "CLIENTS", (1, 2))
    results = beside(tmp_path, rounds=1, seconds=0.5)
    for name in ("timbre", "again"):
        (once,) = results["peers"][name]
        assert once["resident_mb"] > 50
        assert [load["clients"] for load in once["loads"]] == [1, 2]
        assert all(load["errors"] == 0 < load["server_cpu_ms"] for load in once["loads"])
    assert json.loads((tmp_path / "beside.json").read_text())["provenance"]["commit"]
    assert (tmp_path / "beside.png").stat().st_size > 5_000


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what librosa loads before it reads a file
def test_the_classic_design_answers() -> None:
    spec = importlib.util.spec_from_file_location("classic", HERE / "classic" / "app.py")
    assert spec is not None
    assert spec.loader is not None
    classic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(classic)
    with TestClient(classic.app) as client:
        told = client.post("/predict", files={"file": wav()}).json()
    assert told["emotion"] in classic.LABELS
    assert sum(told["all_emotions"].values()) == pytest.approx(1, abs=1e-5)


def test_samples_are_counted_by_the_innermost_part() -> None:
    raw = (
        "run (asyncio/runners.py:118);predict (serving/pipeline.py:9);decode (serving/audio.py:100) 3\n"
        "run (asyncio/runners.py:118) 2\n"
        "_bootstrap (threading.py:1002);_worker (concurrent/futures/thread.py:81) 50\n"
        "elsewhere (nowhere.py:1) 1\n"
    )
    assert by_part(raw) == {"decoding": 3, "event loop and sockets": 2, "other": 1}


def test_a_profile_adds_up(tmp_path: Path) -> None:
    if shutil.which("py-spy") is None and not (Path(module.__file__).parents[1] / ".venv" / "bin" / "py-spy").exists():
        pytest.skip("needs py-spy, which is not on this machine")
    try:
        results = profile(tmp_path, seconds=2)
    except RuntimeError as error:
        if "ermission" in str(error):
            pytest.skip(f"py-spy may not look into processes here: {error}")
        raise
    assert sum(results["shares"].values()) == pytest.approx(1, abs=0.01)
    assert results["shares"]["network and front end (ONNX Runtime)"] > 0.05
    assert (tmp_path / "profile.png").stat().st_size > 5_000
