"""Pictures and text of an evaluation. Every figure is drawn from numbers that stand in a JSON beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.metrics import classification_report, roc_curve

from training.spec import LABELS

_DPI = 120


def plot_curves(history: Sequence[dict[str, float]], path: Path, validated_by: Sequence[dict[str, float]] = ()) -> None:
    """Loss and validation scores over epochs.

    Args:
        validated_by: of a run that learned from the validation part too, the history of the one that it is calibrated
            by, at the last epoch, which did not; the learning rate is drawn where there is none.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, results = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    losses.plot(epochs, [row["train_loss"] for row in history], label="training (windows)")
    losses.set(title="Loss", xlabel="epoch", ylabel="cross entropy")
    own = "val_uar" in history[0]
    validated = history if own else validated_by
    if validated:
        of = "" if own else ", of the run it is calibrated by"
        epochs = [row["epoch"] for row in validated]
        losses.plot(epochs, [row["val_loss"] for row in validated], label=f"validation (clips){of}")
        for name, title in (("val_accuracy", "accuracy"), ("val_uar", "UAR")):
            results.plot(epochs, [row[name] for row in validated], label=title)
        marked = max(validated, key=lambda row: row["val_uar"]) if own else validated[-1]
        what = f"{'kept' if own else 'calibrated at'}: epoch {marked['epoch']:.0f}"
        results.axvline(marked["epoch"], color="grey", linestyle=":", label=what)
        results.set(title=f"Validation part{of}", xlabel="epoch", ylim=(0, 1))
    else:
        results.plot(epochs, [row["learning_rate"] for row in history])
        results.set(title="Learning rate; all epochs run, the last kept", xlabel="epoch")
    for axes in (losses, results) if validated else (losses,):
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18))  # on no curve
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=_DPI)


def plot_confusion(confusion: Sequence[Sequence[int]], path: Path, title: str) -> None:
    """Confusion matrix, rows the truth, cells counts over the share of the row."""
    counts = np.asarray(confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(6.5, 5.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(LABELS))
    axes.set_xticks(ticks, LABELS, rotation=45, ha="right")
    axes.set_yticks(ticks, LABELS)
    axes.set(xlabel="heard as", ylabel="acted", title=title)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = f"{counts[row, column]}\n{share[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, label="share of the row")
    figure.savefig(path, dpi=_DPI)


def plot_roc(
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float64],
    scores: dict[str, Any],
    path: Path,
    title: str,
) -> None:
    """One ROC curve per class against the rest; classes that do not occur have none."""
    figure = Figure(figsize=(6.5, 5.6), layout="constrained")
    axes = figure.subplots()
    for index, label in enumerate(LABELS):
        auc = scores["per_class"][label]["auc"]
        if auc is None:
            continue
        false_positive, true_positive, _ = roc_curve(labels == index, probabilities[:, index])
        colour = f"C{index if index < 7 else 8}"  # the seventh is the grey of chance
        axes.plot(false_positive, true_positive, color=colour, label=f"{label} {auc:.2f}")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=title)
    axes.legend(title="area under the curve", frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=_DPI)


def plot_reliability(metrics: dict[str, Any], path: Path, title: str) -> None:
    """How often a confidence was right, and what a threshold on it would leave and buy."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    trust, reject = figure.subplots(1, 2)
    calibration = metrics["calibration"]
    bins = calibration["bins"]
    confidence = [entry["confidence"] for entry in bins]
    trust.bar(confidence, [entry["accuracy"] for entry in bins], width=0.05, label="accuracy")
    trust.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfectly calibrated")
    for entry in bins:
        trust.text(entry["confidence"], entry["accuracy"] + 0.02, str(entry["clips"]), ha="center", fontsize=7)
    trust.set(
        xlim=(0, 1),
        ylim=(0, 1.1),
        xlabel="confidence",
        ylabel="share right",
        title=f"ECE {calibration['ece']:.3f}; {calibration['ece_if_calibrated']:.3f} by chance alone",
    )
    curve = metrics["rejection"]
    thresholds = [point["min_confidence"] for point in curve]
    reject.plot(thresholds, [point["answered"] for point in curve], label="answered")
    reject.plot(thresholds, [point["accuracy"] for point in curve], label="accuracy on those")
    reject.set(xlim=(0, 1), ylim=(0, 1.1), xlabel="min_confidence", title="Below it no emotion is named")
    figure.suptitle(title)
    for axes in (trust, reject):
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=_DPI)


def plot_conditions(scores: dict[str, dict[str, Any]], path: Path) -> None:
    """UAR under each condition beside that of the clips as they are; which of them it changes, where not all."""
    figure = Figure(figsize=(7, 0.35 * len(scores) + 1), layout="constrained")
    axes = figure.subplots()
    names = list(scores)[::-1]
    values = [scores[name]["uar"] for name in names]
    axes.barh([_of_how_many(name, scores[name]) for name in names], values)
    for place, value in enumerate(values):
        axes.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=8)
    axes.set(xlim=(0, 1), xlabel="UAR on the test part")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=_DPI)


def _of_how_many(name: str, score: dict[str, Any]) -> str:
    changed, clips = score["clips_changed"], score["clips"]
    return name if name == "as it is" or changed == clips else f"{name} (changes {changed} of {clips} clips)"


def classification_text(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> str:
    """scikit-learn's classification report over all classes."""
    text: str = classification_report(
        labels,
        probabilities.argmax(axis=1),
        labels=list(range(len(LABELS))),
        target_names=list(LABELS),
        digits=3,
        zero_division=0.0,
    )
    return text
