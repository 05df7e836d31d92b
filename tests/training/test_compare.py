from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from sklearn.neighbors import KNeighborsClassifier

from training import classical, comparison, graph
from training import compare as compare_module
from training.classifier import Classifier
from training.compare import compare
from training.config import CompareConfig, TrainConfig
from training.export import export_graph
from training.rows import ROWS, Row


@pytest.fixture
def config(settings: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompareConfig:
    """Three short rows of the bench over the synthetic corpus."""
    few: dict[str, Any] = {"epochs": 1, "batch_size": 8, "corpora": ("ravdess",), "tess_share": 1.0}
    short: dict[str, dict[str, Any]] = {"cnn_tdnn": few, "cnn_tdnn_whole": few, "knn": {}}
    rows = [
        dataclasses.replace(
            row,
            recipe=dataclasses.replace(row.recipe, **short[row.name]),
            teachers=int(row.name == "cnn_tdnn_whole"),
            settled_by=row.settled_by and "cnn_tdnn",
            at_random={},
        )
        for row in ROWS
        if row.name in short
    ]
    _instead(rows, monkeypatch)
    monkeypatch.setattr(graph, "_TIMED_RUNS", 10)
    monkeypatch.setattr(compare_module, "export_graph", _once(export_graph))
    return CompareConfig(
        data=settings.data, runs=tmp_path / "runs", out=tmp_path / "results", splits=("fold3", "random")
    )


def _instead(rows: Sequence[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (compare_module, comparison):
        monkeypatch.setattr(module, "ROWS", tuple(rows))


def _here() -> tuple[Row, ...]:
    """The rows that stand in place of the bench's."""
    rows: tuple[Row, ...] = vars(compare_module)["ROWS"]
    return rows


def _once(export: Callable[[Classifier], onnx.ModelProto]) -> Callable[[Classifier], onnx.ModelProto]:
    """The first network's graph for all of a test: of that size, and as quick, whatever was learned."""
    made: list[onnx.ModelProto] = []

    def exported(classifier: Classifier) -> onnx.ModelProto:
        made[:] = made or [export(classifier)]
        return made[0]

    return exported


def test_a_comparison_writes_cells_table_and_chart_and_goes_on_where_it_stopped(
    config: CompareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(dataclasses.replace(config, splits=("fold3",)))
    trained: list[str] = []
    real = compare_module.train

    def counting(settings: TrainConfig) -> Path:
        trained.append(settings.run_name)
        return real(settings)

    monkeypatch.setattr(compare_module, "train", counting)
    more = dataclasses.replace(config, rows=("cnn_tdnn", "knn"))
    results = json.loads(compare(more).read_text())
    assert sorted(trained) == ["cnn_tdnn-random", "knn-random"]
    for row, splits in {"cnn_tdnn": config.splits, "cnn_tdnn_whole": ("fold3",), "knn": config.splits}.items():
        for split in splits:
            cell = results["cells"][row][split]
            examined = json.loads((config.runs / f"{row}-{split}" / "test" / "metrics.json").read_text())
            assert cell["test"] == {key: examined[key] for key in ("clips", "uar", "accuracy", "f1_macro")}
            assert {"command", "commit", "machine", "seed"} <= cell["provenance"].keys()
    assert results["cells"]["cnn_tdnn"]["fold3"]["parameters"] == 699_504
    costs = results["costs"]["rows"]
    assert costs.keys() == {"cnn_tdnn", "cnn_tdnn_whole", "knn"}
    assert all(cost["ms"] > 0 and cost["megabytes"] > 0 for cost in costs.values())
    assert results["cells"]["cnn_tdnn_whole"]["fold3"]["settings"]["taught_by"] == 1
    # It learned from the validation part too: nothing of it examines, and its temperature is the other's.
    assert "validation" not in results["cells"]["cnn_tdnn_whole"]["fold3"]
    temperatures = {
        results["cells"][row]["fold3"]["calibration"]["temperature"] for row in ("cnn_tdnn", "cnn_tdnn_whole")
    }
    assert len(temperatures) == 1
    after = results["cells"]["cnn_tdnn_whole"]["fold3"]["calibration"]["after"]
    line = next(line for line in results["summary"] if line["name"] == "cnn_tdnn_whole")
    assert line["ece_after"] == pytest.approx(after["ece"])
    assert line["ece_after_pooled"] == pytest.approx(after["ece"])  # one fold, all there is to pool
    assert results["summary"][0]["folds"] == 1
    text = (config.out / "compare.md").read_text()
    assert "| cnn_tdnn (ours; 1 of 5 folds) | speech, augmented | log_mel | 0.70 M |" in text
    assert (config.out / "compare.png").stat().st_size > 10_000
    compare(more)
    assert len(trained) == 2
    with pytest.raises(ValueError, match="cnn_tdnn_whole on fold4 takes its temperature from cnn_tdnn on fold4"):
        compare(dataclasses.replace(config, rows=("cnn_tdnn_whole",), splits=("fold4",)))
    assert len(trained) == 2  # before anything was learned


def test_a_row_whose_recipe_has_changed_is_run_again(config: CompareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    only = dataclasses.replace(config, splits=("fold3",), rows=("knn",))
    compare(only)
    changed = [dataclasses.replace(r, recipe=dataclasses.replace(r.recipe, features="mfcc")) for r in _here()]
    _instead(changed, monkeypatch)
    results = json.loads(compare(only).read_text())
    assert results["cells"]["knn"]["fold3"]["settings"]["features"] == "mfcc"
    assert results["costs"]["rows"]["knn"]["graph"] == "knn on mfcc"
    assert TrainConfig.load(config.runs / "knn-fold3").features == "mfcc"


def test_a_cell_is_of_now_as_long_as_recipe_network_and_temperature_are(config: CompareConfig) -> None:
    results = json.loads(compare(dataclasses.replace(config, rows=("cnn_tdnn",), splits=("fold3",))).read_text())
    row = next(row for row in _here() if row.name == "cnn_tdnn")
    cell = results["cells"]["cnn_tdnn"]["fold3"]
    found = cell["calibration"]["temperature"]

    def of_now(temperature: float | None = None, **changed: Any) -> bool:
        return compare_module._is_of_now({**cell, **changed}, row, "fold3", temperature, cell["clips"])

    assert of_now()
    assert of_now(found)
    assert not of_now(found + 0.1)
    without = {key: value for key, value in cell["settings"].items() if key != "split_seed"}
    assert of_now(settings=without)  # a setting that came later had its default
    assert not of_now(settings=cell["settings"] | {"dropout": 0.9})
    assert not of_now(settings=cell["settings"] | {"taught_by": 2})
    assert not of_now(parameters=cell["parameters"] + 1)
    assert not of_now(clips="those of other data")
    assert not compare_module._is_of_now(None, row, "fold3", None, cell["clips"])


def test_cells_and_runs_of_other_data_are_not_taken_for_ones_of_this(config: CompareConfig, tmp_path: Path) -> None:
    only = dataclasses.replace(config, splits=("fold3",), rows=("knn",))
    first = json.loads(compare(only).read_text())["cells"]["knn"]["fold3"]
    fewer = tmp_path / "fewer"
    shutil.copytree(config.data, fewer)
    next(path for path in sorted(fewer.rglob("*.wav")) if "-01.wav" in path.name).unlink()  # of actor 01
    again = json.loads(compare(dataclasses.replace(only, data=fewer)).read_text())["cells"]["knn"]["fold3"]
    assert again["clips"] != first["clips"]
    assert (config.runs / "knn-fold3.before1" / "config.json").exists()  # what was learned is not thrown away


def test_another_estimator_is_another_cell(config: CompareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    only = dataclasses.replace(config, splits=("fold3",), rows=("knn",))
    first = json.loads(compare(only).read_text())["cells"]["knn"]["fold3"]
    before = (config.runs / "knn-fold3" / "checkpoints" / "best.onnx").read_bytes()
    monkeypatch.setitem(classical.ESTIMATORS, "knn", lambda _: KNeighborsClassifier(3))
    again = json.loads(compare(only).read_text())["cells"]["knn"]["fold3"]
    assert first["settings"]["estimator"] == "KNeighborsClassifier(n_neighbors=7)"
    assert again["settings"]["estimator"] == "KNeighborsClassifier(n_neighbors=3)"
    assert (config.runs / "knn-fold3" / "checkpoints" / "best.onnx").read_bytes() != before


def test_a_finished_run_is_taken_though_a_setting_has_come_since(
    config: CompareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = dataclasses.replace(config, splits=("fold3",), rows=("knn",))
    compare(only)
    (config.out / "compare.json").unlink()
    saved = config.runs / "knn-fold3" / "config.json"
    settings = json.loads(saved.read_text())
    del settings["init_from"]
    saved.write_text(json.dumps(settings))
    monkeypatch.setattr(compare_module, "train", None)  # who calls it fails
    compare(only)


def test_what_is_run_side_by_side_is_all_kept(config: CompareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command has written its cell while this one learned."""
    real = compare_module.train

    def meanwhile(settings: TrainConfig) -> Path:
        with compare_module._kept(config.out) as results:
            results.setdefault("cells", {}).setdefault("svm", {})["fold3"] = {"test": {"clips": 1}}
        return real(settings)

    monkeypatch.setattr(compare_module, "train", meanwhile)
    only = dataclasses.replace(config, splits=("fold3",), rows=("knn",))
    assert json.loads(compare(only).read_text())["cells"].keys() == {"knn", "svm"}


def test_the_time_of_a_row_is_that_of_its_epochs_whenever_they_were(config: CompareConfig) -> None:
    only = dataclasses.replace(config, splits=("fold3",), rows=("cnn_tdnn",))
    first = json.loads(compare(only).read_text())["cells"]["cnn_tdnn"]["fold3"]
    (config.out / "compare.json").unlink()
    again = json.loads(compare(only).read_text())["cells"]["cnn_tdnn"]["fold3"]  # the run is there
    assert again["train_s"] == first["train_s"] > 0


@pytest.mark.parametrize("wrong", [{"rows": ("magic",)}, {"splits": ("fold9",)}])
def test_what_is_not_known_is_refused(config: CompareConfig, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"There is no (row|split)"):
        compare(dataclasses.replace(config, **wrong))
