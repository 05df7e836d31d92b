"""Scores and pictures of a classifier, torch or exported, on one part of its run's split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.calibrate import rejection_curve, reliability
from training.classifier import Probabilities
from training.config import EvaluateConfig, TrainConfig
from training.files import write_json
from training.graph import WindowModel, onnx_model, torch_model
from training.metrics import clip_probabilities, scores, uar
from training.progress import progress
from training.provenance import provenance
from training.recordings import Recordings
from training.report import classification_text, plot_confusion, plot_reliability, plot_roc
from training.runs import FITTED, load_classifier, split_of
from training.splits import Split


def evaluate(config: EvaluateConfig) -> tuple[Path, dict[str, Any]]:
    """Write metrics.json, report.txt and pictures to RUN/PART/; returns the folder and the metrics.

    Raises:
        FileNotFoundError: no run, no checkpoint, or clips of its split are not in the data.
        ValueError: the run learned from that part.
    """
    run = config.run_folder
    settings, model = load_model(run)
    split = split_of(run, settings, config.data)
    if not split.part(config.part):
        raise ValueError(
            f"{run.name} learned from its {config.part} part too (whole): its scores there would say nothing. "
            "--part test is left, or a run of the same settings without --whole."
        )
    folder = run / config.part
    return folder, examine(model, decoded(split, config.part), config.part, folder, settings.seed)


def load_model(run: Path) -> tuple[TrainConfig, WindowModel]:
    """The settings of a run and what it learned.

    Raises:
        FileNotFoundError: the folder is not a run, or has no checkpoint yet.
    """
    fitted = run / "checkpoints" / FITTED
    if fitted.is_file():
        return TrainConfig.load(run), onnx_model(fitted.read_bytes())
    settings, classifier = load_classifier(run)
    return settings, torch_model(Probabilities(classifier))


def decoded(split: Split, part: str) -> Recordings:
    """One part of a split in memory."""
    with progress(f"decoding {part}") as update:
        return Recordings(split.part(part), update)


def examine(
    model: WindowModel, recordings: Recordings, part: str, folder: Path, seed: int, prefix: str = ""
) -> dict[str, Any]:
    """Score a model on some clips; write metrics.json, report.txt and pictures into a folder.

    Args:
        part: what the clips are, for titles and the metrics.
        prefix: put before each file's name.
    """
    probabilities = predict(model, recordings)
    labels = recordings.labels.numpy()
    predicted = probabilities.argmax(axis=1)
    speakers = np.array([clip.speaker for clip in recordings.clips])
    metrics = {
        "part": part,
        **scores(labels, probabilities),
        "per_speaker": {
            speaker: {"uar": uar(labels[mine], predicted[mine]), "clips": int(mine.sum())}
            for speaker in sorted(set(speakers.tolist()))
            for mine in [speakers == speaker]
        },
        "calibration": reliability(probabilities, labels),
        "rejection": rejection_curve(probabilities, labels),
        "provenance": provenance(seed),
    }
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{len(labels)} {part} clips, UAR {metrics['uar']:.3f}"
    write_json(folder / f"{prefix}metrics.json", metrics)
    (folder / f"{prefix}report.txt").write_text(classification_text(labels, probabilities))
    plot_confusion(metrics["confusion"], folder / f"{prefix}confusion.png", title)
    plot_roc(labels, probabilities, metrics, folder / f"{prefix}roc.png", title)
    plot_reliability(metrics, folder / f"{prefix}reliability.png", title)
    return metrics


def predict(model: WindowModel, recordings: Recordings) -> npt.NDArray[np.float64]:
    """Probabilities per clip, float64 (clips, classes): the mean over its windows."""
    with progress("predicting") as update:
        rows, owners = recordings.through(model, update)
    return clip_probabilities(rows, owners, len(recordings))
