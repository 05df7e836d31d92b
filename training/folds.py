"""How every recipe did on each fold of actors, as the web page shows it beside a model: from compare.json alone."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from training.files import write_json
from training.spec import ACTOR_FOLDS, FIRST_ACTORS, SPEECH_CLIPS

Json = dict[str, Any]


def fold_table(results: Json) -> Json:
    """UAR on the actors of each fold, whom the recipe then had not heard; None where that has not been run.

    Rows over all folds come before others, the best on average first. ``mean`` has a row's mean and, over more than one
    fold, standard deviation.

    Args:
        results: the content of compare.json.

    Raises:
        ValueError: rows were not all examined on the same actors of a fold, or nobody knows on which.
    """
    folds = [f"fold{fold}" for fold in range(len(ACTOR_FOLDS))]
    scores = {row: [_uar(cells.get(fold)) for fold in folds] for row, cells in results["cells"].items()}
    clips = [_clips(results, fold) for fold in folds]
    run = {row: [score for score in found if score is not None] for row, found in scores.items()}
    ordered = sorted(filter(run.get, run), key=lambda row: (-len(run[row]), -mean(run[row])))
    return {
        "actors": [_examined(actors, count) for actors, count in zip(ACTOR_FOLDS, clips, strict=True)],
        "clips": clips,
        "uar": {row: [None if score is None else round(score, 4) for score in scores[row]] for row in ordered},
        "mean": {row: _mean_and_deviation(run[row]) for row in ordered},
    }


def _mean_and_deviation(scores: list[float]) -> list[float]:
    return [round(mean(scores), 4)] + ([round(stdev(scores), 4)] if len(scores) > 1 else [])


def write_folds(results: Json, path: Path) -> None:
    """The table beside the exported versions, from where the service takes it."""
    write_json(path, fold_table(results))


def _uar(cell: Json | None) -> float | None:
    return None if cell is None else float(cell["test"]["uar"])


def _clips(results: Json, fold: str) -> int:
    """Of the fold's exam; 0 where no row has had it."""
    counts = {cells[fold]["test"]["clips"] for cells in results["cells"].values() if fold in cells}
    if len(counts) > 1:
        raise ValueError(f"Rows were examined on different clips of {fold}: {sorted(counts)}. Run it anew.")
    return int(counts.pop()) if counts else 0


def _examined(actors: tuple[str, ...], clips: int) -> list[str]:
    """The actors of a fold whom so many clips are of: all, or those who are there in data of twenty actors."""
    for there in (actors, tuple(actor for actor in actors if actor in FIRST_ACTORS), ()):
        if clips == SPEECH_CLIPS * len(there):
            return sorted(there)
    raise ValueError(f"{clips} clips are not {SPEECH_CLIPS} of each actor of a fold: {', '.join(actors)}.")
