from __future__ import annotations

import numpy as np
import pytest

from serving import audio
from serving.aggregate import answer, timeline, whole_clip
from serving.artifact import Metadata

LABELS = ("joy", "grief")
RATE_HZ = 100
METADATA = Metadata("1", LABELS, audio.WindowSpec(RATE_HZ, window_samples=300, hop_samples=150), {})


def clip(samples: int) -> tuple[audio.Clip, audio.Windows]:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, samples).astype(np.float32)
    whole = audio.Clip(sound, samples / RATE_HZ, None, RATE_HZ, 1, "WAV")
    return whole, audio.windows(sound, METADATA.windows)


def test_the_answer_is_the_largest_probability() -> None:
    assert answer(np.array([0.2, 0.8], dtype=np.float32), LABELS) == {
        "emotion": "grief",
        "confidence": 0.8,
        "all_emotions": {"joy": 0.2, "grief": 0.8},
    }


def test_a_clip_is_the_mean_of_its_windows() -> None:
    probabilities = np.array([[1, 0], [0, 1], [0.5, 0.5], [0, 1]], dtype=np.float32)
    np.testing.assert_allclose(whole_clip(probabilities), [0.375, 0.625])


def test_the_timeline_covers_the_clip() -> None:
    whole, windows = clip(700)
    segments = timeline(np.full((len(windows), 2), 0.5, dtype=np.float32), windows, whole, METADATA)
    assert [(segment.start_s, segment.end_s) for segment in segments] == [(0, 3), (1.5, 4.5), (3, 6), (4, 7)]


def test_a_short_clip_has_one_segment_as_long_as_itself() -> None:
    whole, windows = clip(120)
    (segment,) = timeline(np.array([[0.9, 0.1]], dtype=np.float32), windows, whole, METADATA)
    assert (segment.start_s, segment.end_s, segment.emotion) == (0, 1.2, "joy")


def test_rows_and_windows_must_match() -> None:
    whole, windows = clip(700)
    with pytest.raises(ValueError, match="zip"):
        timeline(np.zeros((2, 2), dtype=np.float32), windows, whole, METADATA)
