"""A run folder: how it is opened or resumed, what may not become one, and what it gives back when it is loaded."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from training.classifier import Classifier, TrainingStep
from training.config import TrainConfig
from training.datasets import Clip, find_clips, without_copies
from training.files import read_json, write_json
from training.provenance import provenance
from training.splits import Split, actor_split, random_split

BEST, LAST, FITTED = "best.ckpt", "last.ckpt", "best.onnx"
ESTIMATOR = "estimator.json"
"""What a classical baseline was fitted with."""
ENCODER = "encoder.json"
"""The configuration of a pretrained encoder: the checkpoints have its weights."""


def open_run(config: TrainConfig) -> tuple[TrainConfig, Path]:
    """The settings to train by and the run folder, made or, to be resumed, found.

    Of processes that train together the first alone makes and writes it; the others touch nothing, for it may be on a
    disk that they share, or on one that they do not see.

    Raises:
        FileNotFoundError: no data, or no run to resume.
        FileExistsError: the run folder exists and is not to be resumed.
        ValueError: a teacher or the run to begin from has heard the exam, or lies elsewhere.
    """
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
    if _is_first():
        write_json(run / "config.json", config.to_json())
    return config, run


def _make_run(config: TrainConfig, run: Path) -> None:
    if any((run / "checkpoints").glob("*")):
        raise FileExistsError(f"{run} exists. Go on with it by --resume {run}, or give another --name.")
    if (run / "config.json").exists():
        shutil.rmtree(run)  # it stopped before its first epoch ended: there is nothing in it
    if config.model == "wav2vec2" and not config.pretrained and not config.init_from:
        raise ValueError(
            "wav2vec2 is there to learn from a pretrained encoder: give --pretrained, its name or its folder. (Without "
            "one it would be tiny and random, as in tests.)"
        )
    split = make_split(config, config.data)  # before there is a folder: what is refused leaves nothing behind
    _refuse_who_heard_the_exam(config, split)
    _refuse_what_lies_elsewhere(config)
    run.mkdir(parents=True)
    split.save(run / "split.json")
    write_json(run / "provenance.json", provenance(config.seed))


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
    classifier = Classifier(config, saved_encoder(run))
    TrainingStep(config, classifier).load_state_dict(state)
    return config, classifier.eval()


def save_encoder(run: Path, classifier: Classifier) -> None:
    """Keep what :func:`saved_encoder` gives, if there is any encoder."""
    if classifier.encoder and _is_first():
        write_json(run / ENCODER, classifier.encoder)


def saved_encoder(run: Path | None) -> dict[str, Any] | None:
    """The configuration of the pretrained encoder of a run, None where there is neither."""
    if run is None or not (run / ENCODER).is_file():
        return None
    saved: dict[str, Any] = read_json(run / ENCODER)
    return saved


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
