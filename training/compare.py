"""Every family on one bench: the same splits, the same loop, the same exam; a table and a bar chart of what came out.

One row is a recipe; one cell is a row on one split: trained, examined. Cells are written as they end,
so that a comparison that stops goes on where it was, and each can be run alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.augment import AugmentConfig
from training.calibrate import BINS, bin_of, reliability, softmax
from training.classifier import Classifier
from training.config import CLASSICAL, CompareConfig, TrainConfig
from training.evaluate import decoded, examine, load_model
from training.export import chosen_temperature, export_graph, used
from training.folds import write_folds
from training.graph import time_in_turn, torch_model
from training.history import read_pace
from training.metrics import clip_probabilities
from training.provenance import ROOT, provenance
from training.spec import ACTOR_FOLDS
from training.splits import Split
from training.train import FITTED, corpus_clips, load_classifier
from training.train import train as train

RESULTS = ROOT / "training" / "results"

Json = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One recipe.

    Attributes:
        name: in the table and on the command line.
        source: where its kind comes from.
        recipe: everything but data, split and seed.
        teachers: how many networks of the same recipe, each of another seed, teach the one that is examined.
        settled_by: the row on whose validation parts this one was settled, where its own learns from them too; its
            temperature is taken.
        at_random: what the recipe has otherwise where the split is at random.
    """

    name: str
    source: str
    recipe: TrainConfig
    teachers: int = 0
    settled_by: str = ""
    at_random: Json = field(default_factory=dict)


_QUICK: Json = {"epochs": 40, "patience": 10}

# What screening on validation actors left: song and a quarter of TESS as extra voices, small steps, averaged weights.
_OURS = TrainConfig(
    model="residual",
    corpora=("ravdess", "ravdess_song", "tess"),
    tess_share=0.25,
    epochs=50,
    patience=50,
    learning_rate=2e-3,
    weight_decay=2e-2,
    schedule="cosine",
    dropout=0.3,
    label_smoothing=0.1,
    average=0.999,
    augment=AugmentConfig(warp=0.1, masks=2),
)

_TDNN = dataclasses.replace(_OURS, model="cnn_tdnn")

# What is exported meets noise and rooms that no corpus of studio recordings has.
_HARDENED = dataclasses.replace(_TDNN, augment=dataclasses.replace(_TDNN.augment, noise=0.25, room=0.1))

# Where every voice is known from training, there is more to learn of each and less to guard against. With the settings
# above, 0.70 UAR on the validation part with a high loss on learned clips; with these, more after a quarter.
_LONGER: Json = {
    "epochs": 150,
    "patience": 150,
    "dropout": 0.15,
    "label_smoothing": 0.05,
    "augment": AugmentConfig(warp=0.1, masks=1),
}

ROWS = (
    Row("cnn", "the classic", TrainConfig(model="cnn", **_QUICK)),
    Row("cnn1d", "Keras projects", TrainConfig(model="cnn1d", **_QUICK)),
    Row("cnn_lstm", "the strongest hand-made hybrid", TrainConfig(model="cnn_lstm", **_QUICK)),
    Row("lstm", "recurrent baseline", TrainConfig(model="lstm", **_QUICK)),
    Row("gru", "recurrent baseline", TrainConfig(model="gru", **_QUICK)),
    Row("rnn", "recurrent baseline", TrainConfig(model="rnn", **_QUICK)),
    Row("transformer", "the small transformer", TrainConfig(model="transformer", **{**_QUICK, "learning_rate": 3e-4})),
    Row("random_forest", "classical baseline", TrainConfig(model="random_forest")),
    Row("svm", "classical baseline", TrainConfig(model="svm")),
    Row("knn", "classical baseline", TrainConfig(model="knn")),
    Row("residual", "ours, without places of bands", _OURS, at_random=_LONGER),
    Row("cnn_tdnn", "ours", _TDNN, at_random=_LONGER),
    Row("cnn_tdnn_taught", "ours, taught, in noise and rooms", _HARDENED, teachers=2, at_random=_LONGER),
    Row(
        "cnn_tdnn_whole",
        "the same, as exported",
        dataclasses.replace(_HARDENED, whole=True),
        teachers=2,
        settled_by="cnn_tdnn_taught",
        at_random=_LONGER,
    ),
)
"""What is compared; a wav2vec2 row needs weights that are not shipped."""

JOINED = "joined"

SPLITS = (*(f"fold{fold}" for fold in range(len(ACTOR_FOLDS))), "random", JOINED)
"""Actor folds; RAVDESS at random; RAVDESS and TESS at random with calm counted as neutral, seven classes."""


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
            temperature = _settled(results, row, name)
            if not _is_of_now(_cell_of(results, row.name, name), row, name, temperature):
                cell = _cell(config, row, name, temperature)
                with _kept(config.out) as results:
                    results.setdefault("cells", {}).setdefault(row.name, {})[name] = cell
    if config.costs or not _costs_are_told(results):
        costs = _costs(config, results)
        with _kept(config.out) as results:
            results["costs"] = costs
    with _kept(config.out) as results:
        pass  # the summary, of whatever is there
    plot(summary(results), config.out / "compare.png")
    (config.out / "compare.md").write_text(table(summary(results)))
    if config.readme:
        into_readme(summary(results), config.readme)
    if config.folds:
        write_folds(results, config.folds)
    return config.out / "compare.json"


def read_results(folder: Path) -> Json:
    """What stands in compare.json so far."""
    path = folder / "compare.json"
    found: Json = json.loads(path.read_text()) if path.exists() else {}
    return found


@contextlib.contextmanager
def _kept(folder: Path) -> Iterator[Json]:
    """What stands in compare.json, to be changed and written back; rows that run side by side take turns."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".compare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = read_results(folder)
        yield results
        results["summary"] = summary(results)
        new = folder / ".compare.json.new"
        new.write_text(json.dumps(results, indent=1) + "\n")
        new.replace(folder / "compare.json")


def _chosen(known: dict[str, Any], wanted: Sequence[str], what: str) -> dict[str, Any]:
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"There is no {what} {unknown[0]!r}; there are {', '.join(known)}.")
    return {name: known[name] for name in known if not wanted or name in wanted}


def recipe(row: Row, split: str) -> TrainConfig:
    """The row's recipe on one split."""
    told = row.recipe
    if split.startswith("fold"):
        return dataclasses.replace(told, split="actor", fold=int(split.removeprefix("fold")))
    # What is learned from is examined too where the split is at random, so corpora are the split's choice.
    song = tuple(corpus for corpus in told.corpora if corpus == "ravdess_song")
    if split == JOINED:
        corpora, share = ("ravdess", *song, "tess"), 1.0
    else:
        corpora, share = ("ravdess", *song), told.tess_share
    told = dataclasses.replace(told, **row.at_random)
    return dataclasses.replace(told, split="random", corpora=corpora, tess_share=share, merge_calm=split == JOINED)


def _settings(row: Row, split: str) -> Json:
    """What a cell came from: another recipe, another cell."""
    return recipe(row, split).to_json() | ({"taught_by": row.teachers} if row.teachers else {})


def _cell_of(results: Json, row: str, split: str) -> Json | None:
    found: Json | None = results.get("cells", {}).get(row, {}).get(split)
    return found


def _is_of_now(cell: Json | None, row: Row, split: str, temperature: float | None) -> bool:
    """Whether a cell is what this code would make: of the same recipe, network and temperature.

    A setting that came later had its default before.
    """
    if cell is None:
        return False
    saved = dict(cell["settings"])
    if saved.pop("taught_by", 0) != row.teachers:
        return False
    told = recipe(row, split)
    if TrainConfig.from_json(saved).to_json() != told.to_json():
        return False
    if told.model in CLASSICAL:
        return True
    if temperature not in (None, cell["calibration"]["temperature"]):
        return False
    return bool(cell["parameters"] == Classifier(told).parameters_count)


def _settled(results: Json, row: Row, split: str) -> float | None:
    """The temperature that another row has found on this split, for one that leaves nobody to find its own by."""
    if not row.settled_by:
        return None
    other = next(one for one in ROWS if one.name == row.settled_by)
    cell = _cell_of(results, other.name, split)
    if cell is None or not _is_of_now(cell, other, split, None):
        raise ValueError(
            f"{row.name} on {split} takes its temperature from {other.name} on {split}, which has not been run as it "
            f"is now: run both, --rows {other.name} {row.name}."
        )
    return float(cell["calibration"]["temperature"])


def _cell(config: CompareConfig, row: Row, split: str, temperature: float | None) -> Json:
    told = dataclasses.replace(recipe(row, split), data=config.data, runs=config.runs)
    teachers = [
        _trained(dataclasses.replace(told, name=f"{row.name}-{split}-teacher{seed}", seed=seed))
        for seed in range(1, row.teachers + 1)
    ]
    run = _trained(dataclasses.replace(told, name=f"{row.name}-{split}", teachers=tuple(teachers)))
    seconds = sum(epoch["seconds"] for each in (*teachers, run) for epoch in read_pace(each))
    settings, model = load_model(run)
    parts = used(settings, Split.load(run / "split.json", corpus_clips(settings, config.data)))
    scores = {
        part: examine(model, decoded(parts, part), part, run / part, settings.seed)
        for part in ("validation", "test")
        if parts.part(part)
    }
    kept = ("clips", "uar", "accuracy", "f1_macro")
    return {
        "settings": _settings(row, split),
        **{part: {key: scores[part][key] for key in kept} for part in scores},
        **({} if row.recipe.model in CLASSICAL else {"calibration": _calibration(config, run, parts, temperature)}),
        "train_s": round(seconds, 1),
        "parameters": None if row.recipe.model in CLASSICAL else load_classifier(run)[1].parameters_count,
        "provenance": provenance(settings.seed),
    }


def _trained(settings: TrainConfig) -> Path:
    """The run of these settings: there already, gone on with, or made."""
    run = settings.runs / settings.run_name
    if (run / "config.json").exists() and json.loads((run / "config.json").read_text()) != settings.to_json():
        shutil.rmtree(run)  # of an older recipe
    trained_before = run / "checkpoints" / FITTED if settings.model in CLASSICAL else run / "curves.png"
    if not trained_before.exists():
        resumable = (run / "checkpoints" / "last.ckpt").exists()
        train(dataclasses.replace(settings, resume=run) if resumable else settings)
    return run


def _calibration(config: CompareConfig, run: Path, parts: Split, temperature: float | None) -> Json:
    """Reliability on the test part before and after the temperature: the one told, or what validation actors give."""
    if temperature is None:
        temperature = chosen_temperature(run, None, config.data)
    heard = decoded(parts, "test")
    logits, owners = heard.through(torch_model(load_classifier(run)[1]))
    found: Json = {"temperature": temperature}
    for name, divisor in (("before", 1.0), ("after", temperature)):
        probabilities = clip_probabilities(softmax(logits / divisor), owners, len(heard))
        found[name] = reliability(probabilities, heard.labels.numpy())
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


def summary(results: Json) -> list[Json]:
    """One line per row that has any cell: mean and deviation over the actor folds there are, random split, costs."""
    lines = []
    for row in ROWS:
        cells = results.get("cells", {}).get(row.name, {})
        folds = [cells[name] for name in SPLITS if name.startswith("fold") and name in cells]
        if not folds:
            continue
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
                if values:
                    line[f"{part}_{score}"], line[f"{part}_{score}_sd"] = _mean_and_deviation(values)
        for name in ("random", JOINED):
            line[f"{name}_accuracy"] = cells[name]["test"]["accuracy"] if name in cells else None
        for when in ("before", "after"):
            found = [cell["calibration"][when] for cell in folds if "calibration" in cell]
            line[f"ece_{when}"], line[f"ece_{when}_sd"] = _mean_and_deviation([one["ece"] for one in found])
            line[f"ece_{when}_pooled"] = _pooled_error(found)
        line["parameters"] = folds[0]["parameters"]
        cost = results.get("costs", {}).get("rows", {}).get(row.name, {})  # told once all cells are there
        line["megabytes"], line["ms"] = cost.get("megabytes"), cost.get("ms")
        line["train_s"] = float(np.mean([cell["train_s"] for cell in folds]))
        lines.append(line)
    return lines


def _mean_and_deviation(values: list[float]) -> tuple[float | None, float]:
    if not values:
        return None, 0.0
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _material(told: TrainConfig) -> str:
    """What a recipe learns from on a fold, in words."""
    names = {"ravdess": "speech", "ravdess_song": "song", "tess": "TESS"}
    words = [names[corpus] for corpus in told.corpora]
    if told.augment != AugmentConfig():
        words.append("augmented")
    return ", ".join(words)


def _pooled_error(found: list[Json]) -> float | None:
    """Expected calibration error over the clips of all folds together: bins add up, errors of small parts do not."""
    clips, gaps = 0, dict.fromkeys(range(BINS), 0.0)
    for one in found:
        for entry in one["bins"]:
            clips += entry["clips"]
            gaps[bin_of(entry["confidence"])] += entry["clips"] * (entry["accuracy"] - entry["confidence"])
    return sum(abs(gap) for gap in gaps.values()) / clips if clips else None


def table(lines: list[Json]) -> str:
    """Markdown; rows over all folds before others, in the order of validation UAR, by which the winner is chosen.

    A row that learned from the validation parts too, once another had settled it, has none and stands first.
    """
    head = (
        "| model | learns from | features | parameters | UAR, unheard actors | accuracy, unheard actors | "
        "UAR, validation actors | calibration error | accuracy, random split | the same with TESS, 7 classes | "
        "ms per 3 s clip | training |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    body = "".join(
        f"| {line['name']} ({line['source']}{_missing(line['folds'])}) | {line['learns_from']} | {line['features']} | "
        f"{_millions(line['parameters'])} | {_mean(line, 'test_uar')} | {_mean(line, 'test_accuracy')} | "
        f"{_mean(line, 'validation_uar')} | {_mean(line, 'ece_after')} | "
        f"{_share(line['random_accuracy'])} | {_share(line[f'{JOINED}_accuracy'])} | "
        f"{_milliseconds(line['ms'])} | {line['train_s'] / 60:.1f} min |\n"
        for line in sorted(lines, key=lambda line: (-line["folds"], -line.get("validation_uar", 1.0)))
    )
    return head + body + _NOTES


_NOTES = """
UAR, accuracy and calibration error (15 bins, at the temperature that validation actors gave) are means and standard
deviations over the folds of actors. Who is compared over fewer folds is compared over other actors: folds differ by
more than models do. A random split flatters: the same voices are on both sides of it. Rows learn from what is neither
validation nor test of their split, a whole one from the validation part too; its training is that of its teachers too.
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
    if line.get(score) is None:
        return ""
    return f"{line[score]:.3f}" + (f" ± {line[f'{score}_sd']:.3f}" if line["folds"] > 1 else "")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _missing(folds: int) -> str:
    """A mean over some of the folds says so."""
    return "" if folds == len(ACTOR_FOLDS) else f"; {folds} of {len(ACTOR_FOLDS)} folds"


def _millions(parameters: int | None) -> str:
    return "" if parameters is None else f"{parameters / 1e6:.2f} M"


def plot(lines: list[Json], path: Path) -> None:
    """UAR on unheard actors beside accuracy on the random split, which flatters."""
    ordered = sorted(lines, key=lambda line: line["test_uar"])
    figure = Figure(figsize=(8, 0.45 * len(ordered) + 1.6), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(ordered))
    axes.barh(
        place + 0.2,
        [line["test_uar"] for line in ordered],
        0.4,
        xerr=[line["test_uar_sd"] if line["folds"] > 1 else np.nan for line in ordered],
        label="UAR, actors it never heard",
        color="#1f77b4",
    )
    axes.barh(
        place - 0.2,
        [line["random_accuracy"] or 0 for line in ordered],
        0.4,
        label="accuracy, random split (same voices on both sides)",
        color="#c7c7c7",
    )
    axes.set_yticks(place, [line["name"] + _missing(line["folds"]).replace("; ", "\n") for line in ordered])
    axes.set(xlim=(0, 1), xlabel="score")
    axes.axvline(0.125, color="grey", linestyle=":", linewidth=1)
    above = axes.get_xaxis_transform()
    axes.text(0.125, 1.01, "chance", transform=above, color="grey", fontsize=8, ha="center", va="bottom")
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
