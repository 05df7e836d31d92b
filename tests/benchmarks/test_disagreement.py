"""How often versions differ, and the limit that is made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.disagreement import disagreement, limit, shares
from benchmarks.record import FOLDER
from tests.sounds import encode, voice


def test_shares_of_what_two_versions_heard() -> None:
    assert shares(["sad", "calm", "sad", "angry"], ["sad", "sad", "sad", "calm"]) == {"disagree": 2, "share": 0.5}


def test_the_limit_leaves_room_for_chance() -> None:
    """By hand: 0.425 + 2.326 * sqrt(0.425 * 0.575 * (1/120 + 1/100)) = 0.5807, rounded up."""
    assert limit(0.425, 120) == 0.59
    assert limit(0.425, 10_000) < limit(0.425, 120)


def test_every_two_versions_are_compared(tmp_path: Path) -> None:
    (tmp_path / "Actor_08").mkdir()
    (tmp_path / "Actor_08" / "clip.wav").write_bytes(encode(voice(1.0), 16_000))
    results = disagreement(tmp_path, tmp_path)
    committed = json.loads((FOLDER / "disagreement.json").read_text())
    assert [pair["versions"] for pair in results["pairs"]] == [pair["versions"] for pair in committed["pairs"]]
    assert results["clips"] == 1
    assert json.loads((tmp_path / "disagreement.json").read_text())["pairs"] == results["pairs"]


def test_no_clips_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="name the folder"):
        disagreement(tmp_path, tmp_path)
