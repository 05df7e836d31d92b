"""How far a confidence can be trusted: one temperature, fitted on validation actors, and what it makes of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from training.metrics import clip_probabilities

BINS = 15
_REJECTION_STEPS = 20

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]


def fit_temperature(logits: Floats, owners: Integers, labels: Integers) -> float:
    """The temperature that makes clips' probabilities most likely (Guo et al. 2017, arXiv:1706.04599).

    What is fitted is what the service answers with: the mean over a clip's windows of softmax(logits / temperature).

    Args:
        logits: (windows, classes).
        owners: (windows,), index of the clip each was cut from.
        labels: (clips,).
    """

    def negative_log_likelihood(log_temperature: float) -> float:
        probabilities = at_temperature(logits, owners, len(labels), np.exp(log_temperature))
        truth = probabilities[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(truth, 1e-12)).mean())

    found = minimize_scalar(negative_log_likelihood, bounds=(np.log(0.1), np.log(10.0)), method="bounded")
    return float(np.exp(found.x))


def at_temperature(logits: Floats, owners: Integers, clips: int, temperature: float) -> npt.NDArray[np.float64]:
    """Probabilities of clips (clips, classes) at a temperature: means over each one's windows, as in the service."""
    return clip_probabilities(softmax(logits / temperature), owners, clips)


def softmax(logits: Floats) -> npt.NDArray[np.float32]:
    """Rows that sum to 1, float32 (n, classes)."""
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: npt.NDArray[np.float32] = (exponent / exponent.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def reliability(probabilities: Floats, labels: Integers) -> dict[str, Any]:
    """Expected calibration error over 15 equal bins of confidence, and the bins.

    ECE = sum over bins of (share of clips) * |accuracy - mean confidence| (Naeini et al. 2015).

    Args:
        probabilities: (clips, classes).
        labels: (clips,).
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = bin_of(confidence)
    bins, error = [], 0.0
    for index in range(BINS):
        inside = place == index
        if not inside.any():
            continue
        accuracy, mean = float(right[inside].mean()), float(confidence[inside].mean())
        error += inside.mean() * abs(accuracy - mean)
        bins.append({"clips": int(inside.sum()), "confidence": mean, "accuracy": accuracy})
    return {"ece": float(error), "bins": bins}


def bin_of(confidence: Any) -> Any:
    """The bin that a confidence, or each of many, falls into, 0 to BINS - 1."""
    return np.minimum((np.asarray(confidence) * BINS).astype(int), BINS - 1)


def rejection_curve(probabilities: Floats, labels: Integers) -> list[dict[str, float]]:
    """What a threshold on the confidence buys: share of clips still answered, and accuracy on those.

    One point per twentieth of confidence, as long as any clip is answered.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    curve = []
    for threshold in np.arange(_REJECTION_STEPS) / _REJECTION_STEPS:
        answered = confidence >= threshold
        if answered.any():
            point = {"min_confidence": float(threshold), "answered": float(answered.mean())}
            curve.append(point | {"accuracy": float(right[answered].mean())})
    return curve
