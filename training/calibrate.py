"""How far a confidence can be trusted: one temperature, fitted on validation actors, and what it makes of the rest."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binom

from training.metrics import clip_probabilities, negative_log_likelihood

_BINS = 15
_REJECTION_STEPS = 20

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
Bin = dict[str, Any]
"""Of one fifteenth of confidence: how many `clips`, their mean `confidence`, their `accuracy`."""


def fit_temperature(logits: Floats, owners: Integers, labels: Integers) -> float:
    """The temperature that makes clips' probabilities most likely (Guo et al. 2017, arXiv:1706.04599).

    What is fitted is what the service answers with: the mean over a clip's windows of softmax(logits / temperature).

    Args:
        logits: (windows, classes).
        owners: (windows,), index of the clip each was cut from.
        labels: (clips,).
    """

    def unlikelihood(log_temperature: float) -> float:
        return negative_log_likelihood(labels, at_temperature(logits, owners, len(labels), np.exp(log_temperature)))

    found = minimize_scalar(unlikelihood, bounds=(np.log(0.1), np.log(10.0)), method="bounded")
    return float(np.exp(found.x))


def at_temperature(logits: Floats, owners: Integers, clips: int, temperature: float) -> npt.NDArray[np.float64]:
    """Probabilities of clips (clips, classes) at a temperature: means over each one's windows, as in the service."""
    return clip_probabilities(softmax(logits / temperature, axis=1).astype(np.float32), owners, clips)


def reliability(probabilities: Floats, labels: Integers) -> dict[str, Any]:
    """Expected calibration error over 15 equal bins of confidence, what chance alone would make it, and the bins.

    Args:
        probabilities: (clips, classes).
        labels: (clips,).
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = _bin_of(confidence)
    bins = []
    for index in range(_BINS):
        inside = place == index
        if not inside.any():
            continue
        accuracy, mean = float(right[inside].mean()), float(confidence[inside].mean())
        bins.append({"clips": int(inside.sum()), "confidence": mean, "accuracy": accuracy})
    return {"ece": calibration_error(bins), "ece_if_calibrated": error_if_calibrated(bins), "bins": bins}


def calibration_error(bins: Sequence[Bin]) -> float:
    """ECE = sum over bins of (share of clips) * |accuracy - mean confidence| (Naeini et al. 2015)."""
    gaps = (one["clips"] * abs(one["accuracy"] - one["confidence"]) for one in bins)
    return float(sum(gaps)) / _clips(bins)


def error_if_calibrated(bins: Sequence[Bin]) -> float:
    """The ECE to be expected of as many clips with these confidences if each were right exactly as often as it says.

    It is above 0, since accuracies over few clips scatter, and a measured error about as large says nothing against a
    network. After the consistency resampling of Bröcker and Smith 2007 ("Increasing the Reliability of Reliability
    Diagrams"), here without drawing: a bin's count of right answers is binomial, so its mean distance is summed.
    """
    error = 0.0
    for one in bins:
        right = np.arange(one["clips"] + 1)
        confidence = min(one["confidence"], 1.0)  # a mean of sums in float32 may be a little more
        likely = binom.pmf(right, one["clips"], confidence)
        error += float(likely @ np.abs(right - one["clips"] * confidence))
    return error / _clips(bins)


def pooled_bins(found: Sequence[Sequence[Bin]]) -> list[Bin]:
    """The bins of several parts' clips together: in few clips of each, errors of either sign do not show."""
    together: dict[int, list[Bin]] = {}
    for one in itertools.chain.from_iterable(found):
        together.setdefault(_bin_of(one["confidence"]), []).append(one)
    return [
        {"clips": _clips(same)}
        | {score: sum(one["clips"] * one[score] for one in same) / _clips(same) for score in ("confidence", "accuracy")}
        for _, same in sorted(together.items())
    ]


def _clips(bins: Sequence[Bin]) -> int:
    return sum(one["clips"] for one in bins)


def _bin_of(confidence: Any) -> Any:
    """The bin that a confidence, or each of many, falls into, 0 to _BINS - 1."""
    return np.minimum((np.asarray(confidence) * _BINS).astype(int), _BINS - 1)


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
