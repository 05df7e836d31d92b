"""One training: the loop, what it keeps and when it stops, and the clips that it is fed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    WeightAveraging,
)
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from training.classifier import Classifier, TrainingStep
from training.config import TrainConfig
from training.files import read_json, write_json
from training.history import History, Pace, read_history, write_pace
from training.models import CLASSICAL
from training.progress import progress
from training.recordings import EVALUATION_WINDOWS, EpochOrder, RandomWindows, Recordings
from training.report import plot_curves
from training.runs import (
    ESTIMATOR,
    FITTED,
    LAST,
    corpus_clips,
    learned_from,
    load_classifier,
    open_run,
    save_encoder,
    saved_encoder,
)
from training.splits import Split

DEFAULT_EPOCHS = 100


def train(config: TrainConfig) -> Path:
    """Train, or go on with a run that stopped; returns the run folder.

    The folder holds config.json, split.json, provenance.json, history.csv, pace.csv, curves.png, tensorboard/ and
    checkpoints/; of a pretrained encoder encoder.json too.

    Raises:
        FileNotFoundError: no data, or no run to resume.
        FileExistsError: the run folder exists and is not to be resumed.
        ValueError: a teacher or the run to begin from has heard the exam, or does not fit.
    """
    config, run = open_run(config)
    if config.model in CLASSICAL:
        _fit(config, run)
        return run
    # Lightning 2.6 against a newer torch; nothing a user can do about.
    warnings.filterwarnings("ignore", ".isinstance.treespec, LeafSpec.", FutureWarning)
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training")  # as a frozen encoder should be
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    data = Corpora(config, run)
    # An encoder is loaded once: after that, and from there on, checkpoints have its weights.
    classifier = Classifier(config, saved_encoder(run if config.resume else config.init_from))
    save_encoder(run, classifier)
    # Convolutions with their channels last train 1.6 times faster on CPUs, and on GPUs with mixed precision.
    classifier.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.init_from and not config.resume:
        _begin_from(config.init_from, classifier)
    checkpoints = run / "checkpoints"
    trainer = lightning.Trainer(
        max_epochs=config.epochs or DEFAULT_EPOCHS,
        accelerator="auto",
        devices=config.devices,
        num_nodes=config.num_nodes,
        precision=config.precision,
        deterministic=True,
        default_root_dir=run,
        logger=TensorBoardLogger(run, name="tensorboard", version=""),
        callbacks=[
            # What --resume goes on from.
            ModelCheckpoint(checkpoints, filename="last", monitor=None, enable_version_counter=False),
            *([] if config.whole else _choosing(config, checkpoints)),
            LearningRateMonitor(logging_interval="epoch"),
            History(run),
            Pace(run),
            *([_Averaging(config.average)] if config.average else []),
        ],
        log_every_n_steps=1,
        enable_model_summary=False,
        # What has been learned from examines nobody.
        limit_val_batches=0 if config.whole else 1.0,
        use_distributed_sampler=False,  # Corpora deals the clips of an epoch out; validation is everybody's
    )
    resumed = checkpoints / LAST if config.resume else None
    teachers = [load_classifier(teacher)[1].requires_grad_(False) for teacher in config.teachers]
    step = TrainingStep(config, classifier, teachers)
    trainer.fit(step, data, ckpt_path=resumed, weights_only=False)
    if trainer.is_global_zero:
        plot_curves(read_history(run), run / "curves.png")
    return run


class _Averaging(WeightAveraging):
    """Keeps :func:`moving_average` of the weights beside them; it is what is validated and saved."""

    def __init__(self, decay: float) -> None:
        super().__init__(avg_fn=moving_average(decay))

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        del epoch_idx  # after each step, and not once more after the epoch
        return step_idx is not None


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """An exponential moving average that is short at first, so that the random weights of the start are soon forgotten.

    After n steps its decay is (1 + n) / (10 + n), at most ``decay``, as in TensorFlow's ExponentialMovingAverage.
    """

    def average(averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
        kept = min(decay, (1 + int(steps)) / (10 + int(steps)))
        return averaged * kept + current * (1 - kept)

    return average


def _begin_from(run: Path, classifier: Classifier) -> None:
    """Weights and normalisation of another run.

    Raises:
        ValueError: it is of another network.
    """
    settings, other = load_classifier(run)
    try:
        classifier.load_state_dict(other.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"{run} is of {settings.model} over {settings.features}, which does not fit: {error}"
        ) from error


def _choosing(config: TrainConfig, folder: Path) -> list[Callback]:
    """Keep the epoch that validation scores highest, and stop when none has for long."""
    return [
        ModelCheckpoint(folder, filename="best", monitor="val_uar", mode="max", enable_version_counter=False),
        EarlyStopping("val_uar", mode="max", patience=config.patience),
    ]


def _fit(config: TrainConfig, run: Path) -> None:
    """A classical baseline: no epochs, one file."""
    from training.classical import estimator, fit_classical

    split = Split.load(run / "split.json", corpus_clips(config, config.data))
    with progress("decoding train") as update:
        recordings = Recordings(learned_from(config, split), update, trim=config.trim)
    began = time.perf_counter()
    graph = fit_classical(config, recordings).SerializeToString()
    write_pace(run, 0, len(recordings), time.perf_counter() - began, 0.0)
    write_json(run / ESTIMATOR, estimator(config))
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / FITTED).write_bytes(graph)


class Corpora(lightning.LightningDataModule):
    """The train and validation parts of a run's split, decoded into memory."""

    def __init__(self, config: TrainConfig, run: Path) -> None:
        super().__init__()
        self.config, self.run = config, run
        self.recordings: dict[str, Recordings] = {}

    def setup(self, stage: str) -> None:  # noqa: ARG002 - the name is Lightning's
        if self.recordings:
            return
        split = self._split()
        for part in ("train", "validation"):
            with progress(f"decoding {part}") as update:
                self.recordings[part] = Recordings(
                    learned_from(self.config, split) if part == "train" else split.validation,
                    update,
                    trim=self.config.trim and part == "train",
                )
        if self.trainer is not None and not self.config.init_from:  # whose weights know their own normalisation
            step = self.trainer.lightning_module
            windows = (batch for batch, _ in self.recordings["train"].window_batches(EVALUATION_WINDOWS))
            step.classifier.fit_normalisation(windows)  # type: ignore[union-attr, operator]

    def _split(self) -> Split:
        """As it stands on the first process's disk, told to the others: none learns what another is examined on.

        Raises:
            FileNotFoundError: a clip of it is not in this machine's data.
        """
        path, together = self.run / "split.json", self.trainer
        first = together is None or together.is_global_zero
        saved: Any = read_json(path) if first else None
        if together is not None:
            saved = together.strategy.broadcast(saved)
        return Split.from_json(saved, corpus_clips(self.config, self.config.data), of=str(path))

    def train_dataloader(self) -> DataLoader[Any]:
        recordings = self.recordings["train"]
        together = self.trainer
        order = EpochOrder(
            recordings.clips,
            self.config.seed,
            self.config.tess_share,
            part=together.global_rank if together else 0,
            parts=together.world_size if together else 1,
        )
        return DataLoader(
            RandomWindows(recordings, self.config.augment),
            self.config.batch_size,
            sampler=order,
            drop_last=len(order) > self.config.batch_size,  # a rest of one would be no batch to normalise over
            # A loader without a generator draws from the common one when it is made, which a resumed run does earlier.
            generator=torch.Generator(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_WindowStream(self.recordings["validation"]), batch_size=None)


class _WindowStream(IterableDataset[Any]):
    """All windows of some recordings, ready batched."""

    def __init__(self, recordings: Recordings) -> None:
        self.recordings = recordings

    def __iter__(self) -> Any:
        return self.recordings.window_batches(EVALUATION_WINDOWS)
