from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training import comparison
from training.comparison import into_readme, summary, table
from training.rows import SPLITS


def test_the_summary_is_over_actor_folds_and_sorted_by_validation() -> None:
    def cell(validation: float, test: float) -> dict[str, Any]:
        return {
            "validation": {"uar": validation, "accuracy": 0.5},
            "test": {"uar": test, "accuracy": 0.5},
            "parameters": 1_000_000,
            "train_s": 60.0,
        }

    cells = {
        "cnn": {"fold0": cell(0.6, 0.4), "fold1": cell(0.6, 0.6), "random": cell(0.9, 0.9)},
        "lstm": {"fold0": cell(0.7, 0.5), "fold1": cell(0.7, 0.5)},
        "gru": {"fold0": cell(0.9, 0.9)},
    }
    costs = {"cnn": {"ms": 1.234, "megabytes": 4.0}}
    lines = summary({"cells": cells, "costs": {"rows": costs}})
    cnn = next(line for line in lines if line["name"] == "cnn")
    assert cnn["test_uar"] == pytest.approx(0.5)
    assert cnn["test_uar_sd"] == pytest.approx(0.1414, abs=1e-3)
    # By validation, and who was compared over fewer folds behind.
    assert table(lines).index("| lstm") < table(lines).index("| cnn") < table(lines).index("| gru")
    assert "flatters" in table(lines)
    assert "| 1.23 | 1.0 min |" in table(lines)
    assert SPLITS[-2:] == ("random", "joined")


def test_a_row_that_has_been_run_at_random_alone_stands_in_the_table_too(tmp_path: Path) -> None:
    cell = {"test": {"uar": 0.5, "accuracy": 0.61}, "parameters": None, "train_s": 60.0}
    lines = summary({"cells": {"knn": {"random": cell}}})
    assert "| knn (classical baseline; 0 of 5 folds) | speech | stacked |  |  |  |  |  | 0.610 |" in table(lines)
    comparison.plot(lines, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 5_000


def test_the_table_is_put_into_its_place_in_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# before\n<!-- compare: made by `make compare` -->\nold\n<!-- /compare -->\nafter\n")
    into_readme([], readme)
    assert readme.read_text() == (
        f"# before\n<!-- compare: made by `make compare` -->\n{table([])}<!-- /compare -->\nafter\n"
    )
    readme.write_text("nothing")
    with pytest.raises(ValueError, match="no place for the table"):
        into_readme([], readme)
