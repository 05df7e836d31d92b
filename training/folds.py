"""How every recipe did on each fold of actors, as the web page shows it beside a model: from compare.json alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.spec import ACTOR_FOLDS

Json = dict[str, Any]


def fold_table(results: Json) -> Json:
    """UAR on the actors of each fold, whom the recipe then had not heard; None where that has not been run.

    Args:
        results: the content of compare.json.
    """
    folds = [f"fold{fold}" for fold in range(len(ACTOR_FOLDS))]
    scores = {row: [_uar(cells.get(fold)) for fold in folds] for row, cells in results["cells"].items()}
    return {
        "actors": [list(actors) for actors in ACTOR_FOLDS],
        "uar": {row: found for row, found in scores.items() if any(score is not None for score in found)},
    }


def write_folds(results: Json, path: Path) -> None:
    """The table beside the exported versions, from where the service takes it."""
    path.write_text(json.dumps(fold_table(results), indent=1) + "\n")


def _uar(cell: Json | None) -> float | None:
    return None if cell is None else round(cell["test"]["uar"], 4)
