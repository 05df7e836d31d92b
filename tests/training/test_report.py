from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from training import report

_SETTLED = [
    {"epoch": float(n), "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": uar, "val_uar": uar}
    for n, uar in enumerate((0.3, 0.6, 0.5))
]
_WHOLE = [{"epoch": float(n), "train_loss": 1.0, "learning_rate": 0.1} for n in range(3)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were made, which are otherwise but files."""
    figures: list[Figure] = []

    def figure(*args: Any, **kwargs: Any) -> Figure:
        figures.append(Figure(*args, **kwargs))
        return figures[-1]

    monkeypatch.setattr(report, "Figure", figure)
    return figures


def test_the_curves_mark_the_epoch_that_is_kept(drawn: list[Figure], tmp_path: Path) -> None:
    report.plot_curves(_SETTLED, tmp_path / "curves.png")
    (told,) = drawn
    assert told.axes[1].get_legend_handles_labels()[1][-1] == "kept: epoch 1"


def test_of_a_whole_run_they_mark_what_its_temperature_is_of(drawn: list[Figure], tmp_path: Path) -> None:
    """It keeps its own last epoch, and its temperature is that of the other run's last."""
    report.plot_curves(_WHOLE, tmp_path / "curves.png", _SETTLED)
    (told,) = drawn
    assert told.axes[1].get_legend_handles_labels()[1][-1] == "calibrated at: epoch 2"
    assert told.axes[1].get_title() == "Validation part, of the run it is calibrated by"
