"""One training: a run folder with its settings, split, history, curves and checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
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
from training.config import CLASSICAL, TrainConfig
from training.datasets import Clip, find_clips, without_copies
from training.history import History, Pace, read_history, write_pace
from training.progress import progress
from training.provenance import provenance
from training.recordings import EVALUATION_WINDOWS, EpochOrder, RandomWindows, Recordings
from training.report import plot_curves
from training.splits import Split, actor_split, random_split

DEFAULT_EPOCHS = 100
BEST, LAST, FITTED = "best.ckpt", "last.ckpt", "best.onnx"
ESTIMATOR = "estimator.json"
"""What a classical baseline was fitted with."""


def train(config: TrainConfig) -> Path:
    """Train, or go on with a run that stopped; returns the run folder.

    The folder holds config.json, split.json, provenance.json, history.csv, pace.csv, curves.png, tensorboard/ and
    checkpoints/.

    Raises:
        FileNotFoundError: no data, or no run to resume.
        FileExistsError: the run folder exists and is not to be resumed.
        ValueError: a teacher or the run to begin from has heard the exam, or does not fit.
    """
    config, run = _open_run(config)
    if config.model in CLASSICAL:
        _fit(config, run)
        return run
    # Lightning 2.6 against a newer torch; nothing a user can do about.
    warnings.filterwarnings("ignore", ".isinstance.treespec, LeafSpec.", FutureWarning)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    data = Corpora(config, run)
    classifier = Classifier(config)
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


def _refuse_who_heard_the_exam(config: TrainConfig, split: Split) -> None:
    """What teaches or is begun from tells what is in the clips it learned from: of the exam none may be among them.

    Nor may it be chosen by what this run is examined on.

    Raises:
        ValueError: it learned from what this run is chosen by or examined on, or was chosen by the latter.
    """
    chosen_by = () if config.whole else split.validation
    for run in config.made_with:
        theirs = split_of(run, TrainConfig.load(run), config.data)
        learned = {(clip.corpus, clip.name) for clip in theirs.train}
        heard = learned | {(clip.corpus, clip.name) for clip in theirs.validation}
        known = [clip for clip in chosen_by if (clip.corpus, clip.name) in learned]
        if known := known + [clip for clip in split.test if (clip.corpus, clip.name) in heard]:
            raise ValueError(
                f"{run} was trained on another split: it has learned from, or was chosen by, {len(known)} clips, "
                f"{known[0].name} one of them, that this run is to be chosen by or examined on. Take one of the same "
                "split."
            )


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
    _write(run / ESTIMATOR, estimator(config))
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / FITTED).write_bytes(graph)


def load_classifier(run: Path, *, last: bool = False) -> tuple[TrainConfig, Classifier]:
    """The settings of a run and its best classifier (the last where none was chosen), in evaluation mode.

    Args:
        last: the last in any case.

    Raises:
        FileNotFoundError: the folder is not a run, or has no checkpoint yet.
        ValueError: it is of a classical baseline.
    """
    config = TrainConfig.load(run)
    path = run / "checkpoints" / (LAST if last or config.whole else BEST)
    if (path.parent / FITTED).is_file():
        raise ValueError(
            f"{run} is a {config.model}: no network, so nothing to export, to begin from or to be taught by."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{run} has no best checkpoint yet: let `python -m training train` finish an epoch.")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    classifier = Classifier(config)
    TrainingStep(config, classifier).load_state_dict(state)
    return config, classifier.eval()


def corpus_clips(config: TrainConfig, data: Path) -> list[Clip]:
    """What a run learns from, is chosen on and examined on, labelled as its settings ask for."""
    clips = find_clips(data, config.corpora)
    if config.merge_calm:
        return [dataclasses.replace(clip, label="neutral") if clip.label == "calm" else clip for clip in clips]
    return clips


def learned_from(config: TrainConfig, split: Split) -> tuple[Clip, ...]:
    """The clips that weights are fitted to."""
    return split.train + split.validation if config.whole else split.train


def split_of(run: Path, config: TrainConfig, data: Path) -> Split:
    """The split of a run as it used it: what it learned from, what it was chosen on, what it is examined on.

    Raises:
        FileNotFoundError: clips of it are not in the data.
    """
    split = Split.load(run / "split.json", corpus_clips(config, data))
    if not config.whole:
        return split
    return dataclasses.replace(split, train=tuple(sorted(learned_from(config, split))), validation=())


def make_split(config: TrainConfig, data: Path) -> Split:
    """The split that a run's settings ask for, over the clips found."""
    clips = corpus_clips(config, data)
    if config.split == "actor":
        return actor_split(clips, config.fold, whole=config.whole)
    # One recording under two names must not stand on both sides; by actor it cannot.
    return random_split(without_copies(clips), config.split_seed)


def _open_run(config: TrainConfig) -> tuple[TrainConfig, Path]:
    if config.resume:
        run = config.resume
        saved = TrainConfig.load(run, data=config.data, runs=config.runs, resume=run)
        config = dataclasses.replace(saved, epochs=config.epochs or saved.epochs)
        if not (run / "checkpoints" / LAST).is_file():
            raise FileNotFoundError(f"{run} has no {LAST}: it stopped before its first epoch ended. Start it anew.")
    else:
        run = config.runs / config.run_name
        if _is_first():
            _make_run(config, run)
        elif not (run / "split.json").exists():  # another machine's disk
            run.mkdir(parents=True, exist_ok=True)
            make_split(config, config.data).save(run / "split.json")
    if _is_first():
        _write(run / "config.json", config.to_json())
    return config, run


def _make_run(config: TrainConfig, run: Path) -> None:
    if any((run / "checkpoints").glob("*")):
        raise FileExistsError(f"{run} exists. Go on with it by --resume {run}, or give another --name.")
    if (run / "config.json").exists():
        shutil.rmtree(run)  # it stopped before its first epoch ended: there is nothing in it
    if config.model == "wav2vec2" and not config.pretrained:
        raise ValueError(
            "wav2vec2 is there to learn from a pretrained encoder: give --pretrained, its name or its folder. (Without "
            "one it would be tiny and random, as in tests.)"
        )
    split = make_split(config, config.data)  # before there is a folder: what is refused leaves nothing behind
    _refuse_who_heard_the_exam(config, split)
    _refuse_what_lies_elsewhere(config)
    run.mkdir(parents=True)
    split.save(run / "split.json")
    _write(run / "provenance.json", provenance(config.seed))


def _refuse_what_lies_elsewhere(config: TrainConfig) -> None:
    """A run keeps the names of its teachers, and of what it was begun from, and finds them beside itself."""
    for run in config.made_with:
        if run.resolve().parent != config.runs.resolve():
            raise ValueError(f"{run} must lie in {config.runs}, beside the run that is made: move it there, or --runs.")


def _is_first() -> bool:
    """Whether this process leads those that train together: it alone opens and writes the run folder.

    Lightning starts the same command once for each device; these are what it, torchrun and Slurm number them by.
    """
    numbered = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return not any(int(os.environ.get(name, "0")) for name in numbered)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


class Corpora(lightning.LightningDataModule):
    """The train and validation parts of a run's split, decoded into memory."""

    def __init__(self, config: TrainConfig, run: Path) -> None:
        super().__init__()
        self.config, self.run = config, run
        self.recordings: dict[str, Recordings] = {}

    def setup(self, stage: str) -> None:  # noqa: ARG002 - the name is Lightning's
        if self.recordings:
            return
        split = Split.load(self.run / "split.json", corpus_clips(self.config, self.config.data))
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
