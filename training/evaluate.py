"""Scores and pictures of a classifier, torch or exported, on one part of its run's split."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from training.calibrate import rejection_curve, reliability
from training.config import EvaluateConfig, TrainConfig
from training.datasets import Clip
from training.metrics import clip_probabilities, scores, uar
from training.progress import progress
from training.provenance import provenance
from training.recordings import Recordings
from training.report import classification_text, plot_confusion, plot_reliability, plot_roc
from training.splits import Split
from training.train import FITTED, corpus_clips, load_classifier

_BATCH_WINDOWS = 64

INPUT, OUTPUT = "waveform", "probabilities"
"""Names of an exported file's tensors."""

WindowModel = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""Windows (n, samples) -> probabilities (n, classes): a torch classifier or an ONNX session alike."""


def evaluate(config: EvaluateConfig) -> tuple[Path, dict[str, Any]]:
    """Write metrics.json, report.txt and pictures to RUN/PART/; returns the folder and the metrics.

    Raises:
        FileNotFoundError: no run, no checkpoint, or clips of its split are not in the data.
    """
    run = config.run_folder
    settings, model = load_model(run)
    split = Split.load(run / "split.json", corpus_clips(settings, config.data))
    folder = run / config.part
    return folder, examine(model, split.part(config.part), config.part, folder, settings.seed)


def load_model(run: Path) -> tuple[TrainConfig, WindowModel]:
    """The settings of a run and what it learned.

    Raises:
        FileNotFoundError: the folder is not a run, or has no checkpoint yet.
    """
    fitted = run / "checkpoints" / FITTED
    if fitted.is_file():
        return TrainConfig.load(run), onnx_model(fitted.read_bytes())
    settings, classifier = load_classifier(run)

    def model(windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            probabilities: npt.NDArray[np.float32] = classifier(torch.from_numpy(windows)).softmax(dim=1).numpy()
        return probabilities

    return settings, model


def onnx_model(data: bytes) -> WindowModel:
    """An exported file in ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        (probabilities,) = session.run([OUTPUT], {INPUT: windows})
        found: npt.NDArray[np.float32] = probabilities
        return found

    return run


def examine(
    model: WindowModel, clips: Sequence[Clip], part: str, folder: Path, seed: int, prefix: str = ""
) -> dict[str, Any]:
    """Score a model on some clips; write metrics.json, report.txt and pictures into a folder.

    Args:
        part: what the clips are, for titles and the metrics.
        prefix: put before each file's name.
    """
    with progress(f"decoding {part}") as update:
        recordings = Recordings(clips, update)
    probabilities = predict(model, recordings)
    labels = recordings.labels.numpy()
    predicted = probabilities.argmax(axis=1)
    speakers = np.array([clip.speaker for clip in clips])
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
    (folder / f"{prefix}metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    (folder / f"{prefix}report.txt").write_text(classification_text(labels, probabilities))
    plot_confusion(metrics["confusion"], folder / f"{prefix}confusion.png", title)
    plot_roc(labels, probabilities, metrics, folder / f"{prefix}roc.png", title)
    plot_reliability(metrics, folder / f"{prefix}reliability.png", title)
    return metrics


def predict(model: WindowModel, recordings: Recordings) -> npt.NDArray[np.float64]:
    """Probabilities per clip, float64 (clips, classes): the mean over its windows."""
    outputs, owners = [], []
    with progress("predicting") as update:
        for windows, owner in recordings.window_batches(_BATCH_WINDOWS):
            outputs.append(model(windows.numpy()))
            owners.append(owner.numpy())
            update(int(owner[-1]) + 1, len(recordings))
    return clip_probabilities(np.concatenate(outputs), np.concatenate(owners), len(recordings))
