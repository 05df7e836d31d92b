from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.config import PaceConfig
from training.pace import pace


def test_an_epoch_is_timed_and_its_waiting_told(corpus: Path, tmp_path: Path) -> None:
    told = pace(PaceConfig(row="cnn", epochs=1, data=corpus, out=tmp_path))
    (epoch,) = told["epochs"]
    assert told["seconds_per_1200_clips"] == pytest.approx(1200 * epoch["seconds"] / epoch["clips"], abs=0.01)
    assert told["waited_share"] == pytest.approx(epoch["waited_s"] / epoch["seconds"], abs=1e-4)
    assert json.loads((tmp_path / "pace.json").read_text()) == told


def test_who_has_no_epochs_has_no_pace(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="svm is fitted at once"):
        pace(PaceConfig(row="svm", out=tmp_path))


def test_a_row_that_is_not_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'nobody'; there are cnn, "):
        pace(PaceConfig(row="nobody", out=tmp_path))
