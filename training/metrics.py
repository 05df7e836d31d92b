"""Clip-level scores. UAR, the unweighted average recall, is the field's measure where classes are uneven."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

from training.spec import LABELS


def clip_probabilities(
    windows: npt.NDArray[np.float32], owners: npt.NDArray[np.int64], clips: int
) -> npt.NDArray[np.float64]:
    """Mean of each clip's window probabilities, the rule by which the service answers.

    Args:
        windows: (n, classes), probabilities per window.
        owners: (n,), index of the clip each window was cut from.
        clips: how many clips there are.

    Returns:
        float64 (clips, classes).
    """
    sums = np.zeros((clips, windows.shape[1]))
    np.add.at(sums, owners, windows)
    return sums / np.bincount(owners, minlength=clips)[:, None]


def uar(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> float:
    """Mean recall over the classes that occur; labels and predicted are int (clips,), indices of classes.

    ``sklearn.metrics.balanced_accuracy_score`` without its checks, which the bootstrap would wait for 2000 times.
    """
    clips = np.bincount(labels)
    hits = np.bincount(labels[labels == predicted], minlength=len(clips))
    present = clips > 0
    return float((hits[present] / clips[present]).mean())


def negative_log_likelihood(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.floating[Any]]) -> float:
    """Mean of -log of what was given to the true class; labels (clips,), probabilities (clips, classes)."""
    truth = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(truth, 1e-12)).mean())


def uar_interval(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> list[float]:
    """95 % percentile bootstrap interval of the UAR over clips, [low, high]; arguments as of :func:`uar`.

    It says how far another draw of clips of the same speakers could lie; other speakers can lie further off.
    """
    result = bootstrap(
        (labels, predicted), uar, paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=0
    )
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]


def scores(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> dict[str, Any]:
    """All of a part's measures, as JSON values.

    Args:
        labels: (clips,), indices in LABELS.
        probabilities: (clips, classes).

    Returns:
        clips, accuracy, uar with its interval; f1, precision, recall and auc (one against the rest), each macro (mean
        over the classes that occur) and weighted (by their clips); per_class; confusion (rows are the truth).
    """
    predicted = probabilities.argmax(axis=1)
    classes = list(range(len(LABELS)))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0.0
    )
    auc = [_auc(labels == index, probabilities[:, index]) for index in classes]
    present = support > 0
    share = support / support.sum()
    known = np.array([0.0 if value is None else value for value in auc])
    return {
        "clips": len(labels),
        "accuracy": float(accuracy_score(labels, predicted)),
        "uar": uar(labels, predicted),
        "uar_interval": uar_interval(labels, predicted),
        "f1_macro": float(f1[present].mean()),
        "f1_weighted": float(share @ f1),
        "precision_macro": float(precision[present].mean()),
        "precision_weighted": float(share @ precision),
        "recall_macro": float(recall[present].mean()),
        "recall_weighted": float(share @ recall),
        "auc_macro": float(known[present].mean()),
        "auc_weighted": float(share @ known),
        "per_class": {
            label: {
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(f1[index]),
                "auc": auc[index],
                "clips": int(support[index]),
            }
            for index, label in enumerate(LABELS)
        },
        "confusion": confusion_matrix(labels, predicted, labels=classes).tolist(),
    }


def _auc(is_class: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> float | None:
    """Area under the ROC curve of one class against the rest; None where there is only one of the two."""
    if is_class.all() or not is_class.any():
        return None
    return float(roc_auc_score(is_class, score))
