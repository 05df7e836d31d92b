from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import offline
from benchmarks.offline import decoding, front_end, resampling


def test_the_front_end_gives_what_librosa_gives() -> None:
    found = front_end(repeats=3)
    assert found["largest_difference"] < 1e-3
    assert found["times_as_fast"] == pytest.approx(found["librosa_ms"] / found["ours_ms"], abs=0.02)


def test_every_format_and_rate_is_measured() -> None:
    assert {one["format"].split()[0] for one in decoding(repeats=1)} == {"WAV", "FLAC", "OGG", "MP3"}
    assert [one["rate_hz"] for one in resampling(repeats=1)] == [8_000, 16_000, 22_050, 44_100, 48_000, 96_000]


def test_results_say_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "_BATCHES", (1, 2))
    results = offline.offline(tmp_path, repeats=1)
    written = json.loads((tmp_path / "offline.json").read_text())
    assert {"command", "commit", "machine"} <= written["provenance"].keys()
    assert written["network"] == results["network"]
    assert {one["batch"] for one in written["network"]} == {1, 2}
    assert "times as fast" in (tmp_path / "offline.md").read_text()
    assert (tmp_path / "offline.png").stat().st_size > 10_000
