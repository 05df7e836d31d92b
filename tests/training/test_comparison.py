from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training import comparison
from training.comparison import chosen_inside, into_readme, over_folds, summary, table
from training.rows import SPLITS


def test_the_summary_is_over_actor_folds_and_sorted_by_their_test_parts() -> None:
    def cell(validation: float, test: float, clips: int = 100) -> dict[str, Any]:
        return {
            "validation": {"uar": validation, "accuracy": 0.5},
            "test": {"uar": test, "accuracy": 0.5, "clips": clips},
            "parameters": 1_000_000,
            "train_s": 60.0,
        }

    cells = {
        "cnn": {"fold0": cell(0.6, 0.4), "fold1": cell(0.6, 0.6, clips=300), "random": cell(0.9, 0.9)},
        "lstm": {"fold0": cell(0.5, 0.6), "fold1": cell(0.5, 0.6)},
        "gru": {"fold0": cell(0.9, 0.9)},
    }
    costs = {"cnn": {"ms": 1.234, "megabytes": 4.0}}
    lines = summary({"cells": cells, "costs": {"rows": costs}})
    cnn = next(line for line in lines if line["name"] == "cnn")
    assert cnn["test_uar"] == pytest.approx(0.5)
    assert cnn["test_uar_sd"] == pytest.approx(0.1414, abs=1e-3)
    assert cnn["test_uar_by_clips"] == pytest.approx(0.55)
    assert cnn["random_accuracy_interval"] == pytest.approx([0.404, 0.596], abs=1e-3)  # as R's prop.test has it
    # Who was compared over fewer folds behind.
    assert table(lines).index("| lstm") < table(lines).index("| cnn") < table(lines).index("| gru")
    assert "flatters" in table(lines)
    assert "| 1.23 | 1.0 min |" in table(lines)
    assert SPLITS[-2:] == ("random", "joined")


def test_what_a_runs_recipe_has_over_the_folds_is_known_where_it_is_of_the_bench(tmp_path: Path) -> None:
    exam = {"uar": 0.5, "accuracy": 0.5, "clips": 300}
    cells = {
        "svm": {"fold0": {"test": exam}, "fold3": {"test": exam | {"uar": 0.6, "clips": 120}}, "random": {"test": exam}}
    }
    for one in cells["svm"].values():
        one |= {"parameters": None, "train_s": 1.0}  # type: ignore[dict-item]
    results: dict[str, Any] = {"cells": cells}
    assert over_folds(tmp_path, "svm-fold3") is None  # before anything was compared
    (tmp_path / "compare.json").write_text(json.dumps(results | {"summary": summary(results)}))
    assert over_folds(tmp_path, "svm-fold3") == {
        "row": "svm",
        "folds": 2,
        "clips": 420,
        "uar": pytest.approx(0.55),
        "uar_sd": pytest.approx(0.0707, abs=1e-4),
    }
    assert over_folds(tmp_path, "svm-fold3-seed1") is None
    assert over_folds(tmp_path, "cnn-fold3") is None


def test_inside_each_fold_its_validation_actors_alone_choose() -> None:
    def cell(test: float, **validation: float) -> dict[str, Any]:
        return {"test": {"uar": test}} | ({"validation": validation} if validation else {})

    found = chosen_inside(
        {
            "cells": {
                "cnn": {"fold0": cell(0.2, uar=0.7), "fold1": cell(0.9, uar=0.5), "random": cell(1.0, uar=1.0)},
                "gru": {"fold0": cell(0.8, uar=0.6), "fold1": cell(0.4, uar=0.6)},
                "cnn_tdnn_whole": {"fold0": cell(1.0), "fold1": cell(1.0)},  # has nobody left to choose it by
            }
        }
    )
    assert {name: fold["row"] for name, fold in found["folds"].items()} == {"fold0": "cnn", "fold1": "gru"}
    assert found["test_uar"] == pytest.approx(0.3)
    assert found["test_uar_sd"] == pytest.approx(0.1414, abs=1e-3)


def test_a_row_that_has_been_run_at_random_alone_stands_in_the_table_too(tmp_path: Path) -> None:
    cell = {"test": {"uar": 0.5, "accuracy": 0.61, "clips": 100}, "parameters": None, "train_s": 60.0}
    lines = summary({"cells": {"knn": {"random": cell}}})
    assert (
        "| knn (classical baseline; 0 of 5 folds) | speech | stacked |  |  |  |  |  | 0.610 (0.51 to 0.70) |"
        in table(lines)
    )
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
