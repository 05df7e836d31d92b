"""What a training tells of each epoch: scores in history.csv, seconds in pace.csv."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only


class History(Callback):
    """history.csv: one line an epoch, written as it ends and kept when a run is resumed."""

    COLUMNS = ("epoch", "learning_rate", "train_loss", "val_loss", "val_accuracy", "val_uar")

    def __init__(self, run: Path) -> None:
        self.path = run / "history.csv"

    @rank_zero_only
    def on_train_epoch_end(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = {"epoch": trainer.current_epoch, "learning_rate": rate, **logged}
        # A run that was killed between this and its checkpoint lives the epoch again.
        rows = [old for old in read_history(self.path.parent) if old["epoch"] < row["epoch"]]
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows([*rows, row])


class Pace(Callback):
    """pace.csv: seconds that an epoch's training took, validation left out, and how many of them it waited for clips.

    Apart from history.csv, which is the same whenever and wherever a run is made.
    """

    COLUMNS = ("epoch", "clips", "seconds", "waited_s")

    def __init__(self, run: Path) -> None:
        self.path = run / "pace.csv"

    def on_train_epoch_start(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        self._epoch, self._clips, self._waited_s = trainer.current_epoch, 0, 0.0
        self._began = self._ready = time.perf_counter()

    def on_train_batch_start(
        self, _: lightning.Trainer, module: lightning.LightningModule, batch: Any, *__: Any
    ) -> None:
        del module
        self._waited_s += time.perf_counter() - self._ready
        self._clips += len(batch[0])

    def on_train_batch_end(self, *_: Any) -> None:
        self._ready = time.perf_counter()
        self._seconds = self._ready - self._began

    @rank_zero_only
    def on_train_epoch_end(self, *_: Any) -> None:
        write_pace(self.path.parent, self._epoch, self._clips, self._seconds, self._waited_s)


def write_pace(run: Path, epoch: int, clips: int, seconds: float, waited_s: float) -> None:
    """One more line of pace.csv."""
    path = run / "pace.csv"
    if not path.exists():
        path.write_text(",".join(Pace.COLUMNS) + "\n")
    with path.open("a", newline="") as file:
        csv.writer(file).writerow((epoch, clips, round(seconds, 3), round(waited_s, 3)))


def read_history(run: Path) -> list[dict[str, float]]:
    """The epochs of a run, in order: epoch, learning rate, losses and scores (no ``val_`` ones of a whole run)."""
    if not (run / "history.csv").exists():
        return []
    with (run / "history.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def read_pace(run: Path) -> list[dict[str, float]]:
    """The epochs of a run, one lived again standing twice: epoch, clips, seconds, waited_s."""
    with (run / "pace.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
