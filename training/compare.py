"""Every family on one bench: the same splits, the same loop, the same exam.

One row is a recipe; one cell is a row on one split: trained, examined. Cells are written as they end,
so that a comparison that stops goes on where it was, and each can be run alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.calibrate import at_temperature, reliability
from training.classifier import Classifier
from training.comparison import chosen_inside, into_readme, plot, read_results, summary, table
from training.config import CompareConfig, TrainConfig
from training.evaluate import decoded, examine, load_model
from training.export import chosen_temperature, export_graph, temperature_of
from training.files import read_json
from training.folds import write_folds
from training.graph import time_in_turn, torch_model
from training.history import read_pace
from training.models import CLASSICAL
from training.provenance import provenance
from training.recordings import Recordings
from training.rows import ROWS, SPLITS, Row, recipe
from training.runs import ESTIMATOR, FITTED, load_classifier, make_split, split_of
from training.splits import PARTS, Split
from training.train import train as train

Json = dict[str, Any]


def compare(config: CompareConfig) -> Path:
    """Run the cells that are missing, then write the table and the chart; returns the results file.

    Raises:
        ValueError: a row or split that is not known.
        FileNotFoundError: no data.
    """
    rows = _chosen({row.name: row for row in ROWS}, config.rows, "row")
    splits = list(_chosen(dict.fromkeys(SPLITS), config.splits, "split"))
    results = read_results(config.out)
    for name in splits:  # all rows on one split before the next: a comparison that stops half-way compares something
        for row in rows.values():
            clips = _digest(make_split(recipe(row, name), config.data))
            temperature = _settled(config, results, row, name)
            if not _is_of_now(_cell_of(results, row.name, name), row, name, temperature, clips):
                cell = _cell(config, row, name, temperature) | {"clips": clips}
                with _kept(config.out) as results:
                    results.setdefault("cells", {}).setdefault(row.name, {})[name] = cell
    told = {"costs": _costs(config, results)} if config.costs or not _costs_are_told(results) else {}
    with _kept(config.out) as results:
        results.update(told)
    lines = results["summary"]
    plot(lines, config.out / "compare.png")
    (config.out / "compare.md").write_text(table(lines))
    if config.readme:
        into_readme(lines, config.readme)
    if config.folds:
        write_folds(results, config.folds)
    return config.out / "compare.json"


@contextlib.contextmanager
def _kept(folder: Path) -> Iterator[Json]:
    """What stands in compare.json, to be changed and written back, summed up; rows that run side by side take turns."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".compare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = read_results(folder)
        yield results
        results["summary"], results["chosen_inside"] = summary(results), chosen_inside(results)
        new = folder / ".compare.json.new"
        new.write_text(json.dumps(results, indent=1) + "\n")
        new.replace(folder / "compare.json")


def _chosen(known: dict[str, Any], wanted: Sequence[str], what: str) -> dict[str, Any]:
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"There is no {what} {unknown[0]!r}; there are {', '.join(known)}.")
    return {name: known[name] for name in known if not wanted or name in wanted}


def _settings(row: Row, split: str) -> Json:
    """What a cell came from: another recipe, another cell."""
    told = recipe(row, split)
    taught = {"taught_by": row.teachers} if row.teachers else {}
    return told.to_json() | taught | ({"estimator": _estimator(told)} if told.model in CLASSICAL else {})


def _estimator(told: TrainConfig) -> str:
    # Here, because it takes seconds to import and networks do without.
    from training.classical import estimator

    return estimator(told)


def _digest(split: Split) -> str:
    """Which clips were for what, 16 hexadecimal digits: other data, another cell."""
    told = split.to_json()
    names = json.dumps([told[part]["clips"] for part in PARTS])
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def _cell_of(results: Json, row: str, split: str) -> Json | None:
    found: Json | None = results.get("cells", {}).get(row, {}).get(split)
    return found


def _is_of_now(cell: Json | None, row: Row, split: str, temperature: float | None, clips: str) -> bool:
    """Whether a cell is what this code would make of this data: of the same recipe, network, temperature and clips.

    A setting that came later had its default before.
    """
    if cell is None:
        return False
    saved = dict(cell["settings"])
    if saved.pop("taught_by", 0) != row.teachers or cell.get("clips") != clips:
        return False
    told = recipe(row, split)
    estimator = saved.pop("estimator", None)
    if TrainConfig.from_json(saved).to_json() != told.to_json():
        return False
    if told.model in CLASSICAL:
        return bool(estimator == _estimator(told))
    if temperature not in (None, cell["calibration"]["temperature"]):
        return False
    return bool(cell["parameters"] == Classifier(told).parameters_count)


def _settled(config: CompareConfig, results: Json, row: Row, split: str) -> float | None:
    """The temperature that another row has found on this split, for one that leaves nobody to find its own by."""
    if not row.settled_by:
        return None
    other = next(one for one in ROWS if one.name == row.settled_by)
    cell = _cell_of(results, other.name, split)
    clips = _digest(make_split(recipe(other, split), config.data))
    if cell is None or not _is_of_now(cell, other, split, None, clips):
        raise ValueError(
            f"{row.name} on {split} takes its temperature from {other.name} on {split}, which has not been run as it "
            f"is now: run both, --rows {other.name} {row.name}."
        )
    return float(cell["calibration"]["temperature_of_last"])


def _cell(config: CompareConfig, row: Row, split: str, temperature: float | None) -> Json:
    told = dataclasses.replace(recipe(row, split), data=config.data, runs=config.runs)
    teachers = [
        _trained(dataclasses.replace(told, name=f"{row.name}-{split}-teacher{seed}", seed=seed))
        for seed in range(1, row.teachers + 1)
    ]
    run = _trained(dataclasses.replace(told, name=f"{row.name}-{split}", teachers=tuple(teachers)))
    seconds = sum(epoch["seconds"] for each in (*teachers, run) for epoch in read_pace(each))
    settings, model = load_model(run)
    parts = split_of(run, settings, config.data)
    heard = {part: decoded(parts, part) for part in ("validation", "test") if parts.part(part)}
    scores = {part: examine(model, clips, part, run / part, settings.seed) for part, clips in heard.items()}
    kept = ("clips", "uar", "accuracy", "f1_macro")
    cell = {
        "settings": _settings(row, split),
        **{part: {key: scores[part][key] for key in kept} for part in scores},
        "train_s": round(seconds, 1),
        "parameters": None,
        "trained": read_json(run / "provenance.json"),
        "provenance": provenance(settings.seed),
    }
    if settings.model in CLASSICAL:
        return cell
    classifier = load_classifier(run)[1]
    if temperature is None:
        temperature = chosen_temperature(run, None, config.data)
    calibration = _calibration(classifier, heard["test"], temperature)
    if row.name in {other.settled_by for other in ROWS}:
        calibration["temperature_of_last"] = temperature_of(run, config.data, last=True)
    return cell | {"calibration": calibration, "parameters": classifier.parameters_count}


def _trained(settings: TrainConfig) -> Path:
    """The run of these settings: there already, gone on with, or made."""
    run = settings.runs / settings.run_name
    if (run / "config.json").exists() and not _is_run_of(run, settings):
        _set_aside(run)
    trained_before = run / "checkpoints" / FITTED if settings.model in CLASSICAL else run / "curves.png"
    if not trained_before.exists():
        resumable = (run / "checkpoints" / "last.ckpt").exists()
        train(dataclasses.replace(settings, resume=run) if resumable else settings)
    return run


def _is_run_of(run: Path, settings: TrainConfig) -> bool:
    """Whether a run is of this recipe, over these clips."""
    split, estimator = run / "split.json", run / ESTIMATOR
    return (
        TrainConfig.load(run).to_json() == settings.to_json()
        and split.exists()
        and read_json(split) == make_split(settings, settings.data).to_json()
        and (settings.model not in CLASSICAL or (estimator.exists() and read_json(estimator) == _estimator(settings)))
    )


def _set_aside(run: Path) -> None:
    """What another recipe has cost hours for is not thrown away."""
    for number in itertools.count(1):
        aside = run.with_name(f"{run.name}.before{number}")
        if not aside.exists():
            run.rename(aside)
            return


def _calibration(classifier: Classifier, heard: Recordings, temperature: float) -> Json:
    """Reliability on the test part before and after the temperature."""
    logits, owners = heard.through(torch_model(classifier))
    found: Json = {"temperature": temperature}
    for name, divisor in (("before", 1.0), ("after", temperature)):
        found[name] = reliability(at_temperature(logits, owners, len(heard), divisor), heard.labels.numpy())
    return found


def _compared(results: Json) -> list[Row]:
    """The rows that have a cell."""
    return [row for row in ROWS if results["cells"].get(row.name)]


def _costs_are_told(results: Json) -> bool:
    told = {name: cost["graph"] for name, cost in results.get("costs", {}).get("rows", {}).items()}
    return told == {row.name: _kind(row) for row in _compared(results)}


def _kind(row: Row) -> str:
    """Rows of one kind cost the same, whatever was learned how."""
    return f"{row.recipe.model} on {row.recipe.features}"


def _costs(config: CompareConfig, results: Json) -> Json:
    """What a window takes by each row, in one session of all of them, and the file's size."""
    rows = _compared(results)
    one_of_each = {_kind(row): row for row in rows}
    graphs = {kind: _graph(config, row, next(iter(results["cells"][row.name]))) for kind, row in one_of_each.items()}
    ms = time_in_turn(graphs)
    costs = {
        row.name: {"graph": kind, "ms": ms[kind], "megabytes": round(len(graphs[kind]) / 1e6, 2)}
        for row in rows
        for kind in [_kind(row)]
    }
    return {"rows": costs, "provenance": provenance()}


def _graph(config: CompareConfig, row: Row, split: str) -> bytes:
    """A row as an ONNX file: a network as it is made, which takes no other time once it has learned."""
    told = dataclasses.replace(recipe(row, split), data=config.data, runs=config.runs, name=f"{row.name}-{split}")
    if told.model in CLASSICAL:
        return (_trained(told) / "checkpoints" / FITTED).read_bytes()
    return export_graph(Classifier(told).eval()).SerializeToString()
