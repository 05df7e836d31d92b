"""How long an epoch takes on this machine, and whether it waits for its clips."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from training.config import PaceConfig
from training.files import write_json
from training.history import read_pace
from training.models import CLASSICAL
from training.provenance import provenance
from training.rows import ROWS, recipe
from training.train import train

CLIPS = 1200
"""An epoch's time is told for as many: what a fold of RAVDESS speech is about."""


def pace(config: PaceConfig) -> dict[str, Any]:
    """Train a row of the bench for a few epochs, write pace.json to the results; returns what is in it.

    The first epoch is left out: memory is found and kernels are chosen in it. Validation is not counted.

    Raises:
        ValueError: a row that is not known, or has no epochs.
        FileNotFoundError: no data.
    """
    known = {row.name: row for row in ROWS}
    if config.row not in known:
        raise ValueError(f"There is no row {config.row!r}; there are {', '.join(known)}.")
    if known[config.row].recipe.model in CLASSICAL:
        raise ValueError(f"{config.row} is fitted at once and has no epochs; networks have.")
    epochs = config.epochs + 1
    with tempfile.TemporaryDirectory() as runs:
        asked = recipe(known[config.row], config.split)
        run = train(dataclasses.replace(asked, data=config.data, runs=Path(runs), name="pace", epochs=epochs))
        counted = read_pace(run)[1:]
    seconds = statistics.median(epoch["seconds"] / epoch["clips"] * CLIPS for epoch in counted)
    results = {
        "row": config.row,
        "epochs": [{key: epoch[key] for key in ("clips", "seconds", "waited_s")} for epoch in counted],
        f"seconds_per_{CLIPS}_clips": round(seconds, 2),
        "waited_share": round(sum(e["waited_s"] for e in counted) / sum(e["seconds"] for e in counted), 4),
        "threads": torch.get_num_threads(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "provenance": provenance(asked.seed),
    }
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(config.out / "pace.json", results)
    return results
