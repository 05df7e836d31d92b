"""From the windows' probabilities to a timeline and one answer for the clip."""

from __future__ import annotations

from typing import Any

import numpy as np

from serving.artifact import Metadata
from serving.audio import Clip, Windows
from serving.schemas import Prediction, Segment, Timing, rounded
from serving.session import Probabilities


def prediction(
    probabilities: Probabilities,
    windows: Windows,
    clip: Clip,
    metadata: Metadata,
    timing: Timing,
    *,
    filename: str | None = None,
    min_confidence: float = 0.0,
) -> Prediction:
    """The answer to one clip.

    Args:
        probabilities: float32 (N, classes), a row per window.
        windows: the N windows that were run.
        min_confidence: below it no emotion is named.
    """
    return Prediction(
        **answer(whole_clip(probabilities), metadata.labels, min_confidence),
        filename=filename,
        model_version=metadata.version,
        duration_s=round(clip.duration_s, 3),
        segments=timeline(probabilities, windows, clip, metadata, min_confidence),
        timing_ms=timing,
    )


def timeline(
    probabilities: Probabilities, windows: Windows, clip: Clip, metadata: Metadata, min_confidence: float = 0.0
) -> list[Segment]:
    """One segment per window, in order; the last ends no later than the clip. Arguments as of :func:`prediction`."""
    rate_hz = metadata.windows.rate_hz
    segments = []
    for row, start in zip(probabilities, windows.starts, strict=True):
        end_s = min((int(start) + windows.window_samples) / rate_hz, clip.duration_s)
        segments.append(
            Segment(
                start_s=round(int(start) / rate_hz, 3),
                end_s=round(end_s, 3),
                **answer(row, metadata.labels, min_confidence),
            )
        )
    return segments


def answer(probabilities: Probabilities, labels: tuple[str, ...], min_confidence: float = 0.0) -> dict[str, Any]:
    """``emotion``, ``confidence`` and ``all_emotions`` of one row of probabilities, float (classes,).

    The emotion is None where its probability is below ``min_confidence``: not sure.
    """
    best = int(np.argmax(probabilities))
    return {
        "emotion": labels[best] if probabilities[best] >= min_confidence else None,
        "confidence": rounded(probabilities[best]),
        "all_emotions": {label: rounded(value) for label, value in zip(labels, probabilities, strict=True)},
    }


def whole_clip(probabilities: Probabilities) -> Probabilities:
    """Mean over the windows, float32 (N, classes) -> (classes,): the rule the models are measured by."""
    mean: Probabilities = probabilities.mean(axis=0)
    return mean
