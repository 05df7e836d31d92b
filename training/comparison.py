"""What came out of a comparison: a line for each row, as a table, in README and as a bar chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from training.augment import AugmentConfig
from training.calibrate import calibration_error, error_if_calibrated, pooled_bins
from training.config import TrainConfig
from training.files import read_json
from training.rows import JOINED, ROWS, SPLITS
from training.spec import ACTOR_FOLDS

Json = dict[str, Any]


def summary(results: Json) -> list[Json]:
    """One line per row that has any cell: mean and deviation over the actor folds there are, random split, costs."""
    lines = []
    for row in ROWS:
        cells = results.get("cells", {}).get(row.name, {})
        if not cells:
            continue
        folds = [cells[name] for name in SPLITS if name.startswith("fold") and name in cells]
        any_cell = next(iter(cells.values()))
        line: Json = {
            "name": row.name,
            "features": row.recipe.features,
            "source": row.source,
            "folds": len(folds),
            "learns_from": _material(row.recipe),
        }
        for part in ("validation", "test"):
            for score in ("uar", "accuracy"):
                values = [cell[part][score] for cell in folds if part in cell]
                line[f"{part}_{score}"], line[f"{part}_{score}_sd"] = _mean_and_deviation(values)
        # Every actor counts as much as another, where the mean over folds lets those of small ones count more.
        scores, clips = [cell["test"]["uar"] for cell in folds], [cell["test"]["clips"] for cell in folds]
        line["test_uar_by_clips"] = float(np.average(scores, weights=clips)) if folds else None
        for name in ("random", JOINED):
            exam = cells[name]["test"] if name in cells else None
            line[f"{name}_accuracy"] = exam and exam["accuracy"]
            line[f"{name}_accuracy_interval"] = exam and _interval(exam["accuracy"], exam["clips"])
        for when in ("before", "after"):
            found = [cell["calibration"][when]["bins"] for cell in folds if "calibration" in cell]
            for name, error in (("ece", calibration_error), ("ece_if_calibrated", error_if_calibrated)):
                key = f"{name}_{when}"
                line[key], line[f"{key}_sd"] = _mean_and_deviation([error(bins) for bins in found])
                line[f"{key}_pooled"] = error(pooled_bins(found)) if found else None
        line["parameters"] = any_cell["parameters"]
        cost = results.get("costs", {}).get("rows", {}).get(row.name, {})  # told once all cells are there
        line["megabytes"], line["ms"] = cost.get("megabytes"), cost.get("ms")
        line["train_s"], _ = _mean_and_deviation([cell["train_s"] for cell in folds])
        lines.append(line)
    return lines


def read_results(folder: Path) -> Json:
    """What stands in compare.json so far."""
    path = folder / "compare.json"
    found: Json = read_json(path) if path.exists() else {}
    return found


def over_folds(folder: Path, run_name: str) -> Json | None:
    """What the recipe of a run of the bench has on unheard actors, over all folds that it was run on.

    Args:
        folder: where compare.json lies.
        run_name: such as "svm-fold3".

    Returns:
        ``row``, ``folds``, ``clips``, ``uar``, ``uar_sd``; None where the run is not of the bench, or but on one fold.
    """
    results = read_results(folder)
    row, _, split = run_name.rpartition("-")
    line = next((line for line in results.get("summary", []) if line["name"] == row), None)
    if line is None or split not in SPLITS or line["folds"] < 2:
        return None
    exams = [cell["test"] for split, cell in results["cells"][row].items() if split.startswith("fold")]
    clips = sum(exam["clips"] for exam in exams)
    return {"row": row, "folds": line["folds"], "clips": clips, "uar": line["test_uar"], "uar_sd": line["test_uar_sd"]}


def chosen_inside(results: Json) -> Json:
    """What is had by choosing inside each fold: the row that its validation actors put first, on its test actors.

    A network's score there is its best epoch's, so it is chosen for a little luck too, which a classical row has not.
    """
    folds: Json = {}
    for name in (split for split in SPLITS if split.startswith("fold")):
        cells = {row.name: results.get("cells", {}).get(row.name, {}).get(name, {}) for row in ROWS}
        if chosen := {row: cell for row, cell in cells.items() if "validation" in cell}:
            best = max(chosen, key=lambda row: float(chosen[row]["validation"]["uar"]))
            folds[name] = {"row": best} | {f"{part}_uar": cells[best][part]["uar"] for part in ("validation", "test")}
    mean, deviation = _mean_and_deviation([fold["test_uar"] for fold in folds.values()])
    return {"folds": folds, "test_uar": mean, "test_uar_sd": deviation}


def _mean_and_deviation(values: list[float]) -> tuple[float | None, float]:
    if not values:
        return None, 0.0
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _interval(accuracy: float, clips: int) -> list[float]:
    """Wilson's 95 % interval of a share of so many clips."""
    found = binomtest(round(accuracy * clips), clips).proportion_ci(method="wilson")
    return [float(found.low), float(found.high)]


def _material(told: TrainConfig) -> str:
    """What a recipe learns from on a fold, in words."""
    names = {"ravdess": "speech", "ravdess_song": "song", "tess": "TESS"}
    words = [names[corpus] for corpus in told.corpora]
    if told.augment != AugmentConfig():
        words.append("augmented")
    return ", ".join(words)


def _in_order(lines: list[Json]) -> list[Json]:
    """Rows over all folds before others, the best on unheard actors first."""
    return sorted(lines, key=lambda line: (-line["folds"], -(line["test_uar"] or 0.0)))


def table(lines: list[Json]) -> str:
    """Markdown, with what there is to know beside the figures."""
    head = (
        "| model | learns from | features | parameters | UAR, unheard actors | accuracy, unheard actors | "
        "UAR, validation actors | calibration error: before, after (by chance) | accuracy, random split | "
        "the same with TESS, 7 classes | ms per 3 s clip | training |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    body = "".join(
        f"| {line['name']} ({line['source']}{_missing(line['folds'])}) | {line['learns_from']} | {line['features']} | "
        f"{_millions(line['parameters'])} | {_mean(line, 'test_uar')} | {_mean(line, 'test_accuracy')} | "
        f"{_mean(line, 'validation_uar')} | {_calibration(line)} | "
        f"{_with_interval(line, 'random')} | {_with_interval(line, JOINED)} | "
        f"{_rounded(line['ms'], 2)} | {_minutes(line['train_s'])} |\n"
        for line in _in_order(lines)
    )
    return head + body + _NOTES


_NOTES = """
UAR, accuracy and calibration error (15 bins; before and after the temperature fitted on the validation actors; in
brackets what a perfectly calibrated model would be expected to show on so few clips, by chance) are means, with
standard deviations, over the folds of actors. The order is that of the UAR on unheard actors; nothing was chosen by
it. UAR on validation actors is that of a network's best epoch there, so it is too high, by up to 0.08; classical models
have one look, and the exported recipe, which learns from its validation actors too, none. Rows over fewer folds are
compared over other actors, and folds differ by more than models do. A random split flatters: the same voices are on
both sides of it (in brackets Wilson's 95 % interval, over clips). Training times are of trainings side by side on two
shared cores, whose speed changes by half, and include those of a row's teachers.
"""


def into_readme(lines: list[Json], readme: Path) -> None:
    """Put the table where README has its mark.

    Raises:
        ValueError: there is no such mark.
    """
    text = readme.read_text()
    begin, end = "<!-- compare: made by `make compare` -->\n", "<!-- /compare -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{readme} has no place for the table: it is put between {begin.strip()} and {end}.")
    readme.write_text(f"{before}{begin}{table(lines)}{end}{after}")


def _mean(line: Json, score: str) -> str:
    """With its deviation, where there is more than one fold."""
    if line[score] is None:
        return ""
    return f"{line[score]:.3f}" + (f" ± {line[f'{score}_sd']:.3f}" if line["folds"] > 1 else "")


def _with_interval(line: Json, split: str) -> str:
    if line[f"{split}_accuracy"] is None:
        return ""
    low, high = line[f"{split}_accuracy_interval"]
    return f"{line[f'{split}_accuracy']:.3f} ({low:.2f} to {high:.2f})"


def _calibration(line: Json) -> str:
    after = _mean(line, "ece_after")
    return f"{line['ece_before']:.3f}, {after} ({line['ece_if_calibrated_after']:.3f})" if after else ""


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.1f} min"


def _rounded(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"


def _missing(folds: int) -> str:
    """A mean over some of the folds says so."""
    return "" if folds == len(ACTOR_FOLDS) else f"; {folds} of {len(ACTOR_FOLDS)} folds"


def _millions(parameters: int | None) -> str:
    return "" if parameters is None else f"{parameters / 1e6:.2f} M"


def plot(lines: list[Json], path: Path) -> None:
    """UAR on unheard actors beside accuracy on the random split, which flatters."""
    ordered = _in_order(lines)[::-1]
    figure = Figure(figsize=(8, 0.45 * len(ordered) + 1.6), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(ordered))
    bars = axes.barh(
        place + 0.2,
        [line["test_uar"] or 0 for line in ordered],
        0.4,
        xerr=[line["test_uar_sd"] if line["folds"] > 1 else np.nan for line in ordered],
        label="UAR, actors it never heard (pale: of some folds only)",
        color="#1f77b4",
    )
    axes.barh(
        place - 0.2,
        [line["random_accuracy"] or 0 for line in ordered],
        0.4,
        label="accuracy, random split (same voices on both sides)",
        color="#c7c7c7",
    )
    names = [f"{line['name']}\n{line['source']}{_missing(line['folds'])}" for line in ordered]
    axes.set_yticks(place, names, fontsize=8)
    axes.set(xlim=(0, 1), xlabel="score")
    axes.axvline(0.125, color="grey", linestyle=":", linewidth=1)
    above = axes.get_xaxis_transform()
    axes.text(0.125, 1.01, "chance", transform=above, color="grey", fontsize=8, ha="center", va="bottom")
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    figure.legend(frameon=False, loc="outside lower center")  # before bars are pale: its own is not
    for bar, line in zip(bars, ordered, strict=True):
        bar.set_alpha(1.0 if line["folds"] == len(ACTOR_FOLDS) else 0.4)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
