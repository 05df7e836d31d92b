from __future__ import annotations

import shutil

import numpy as np
import pytest

from serving.detector import Listener
from tests.sounds import Sound, speech

RATE = 16_000


def share(sound: Sound, rate_hz: int = RATE) -> float:
    """How much of a sound is heard as speech."""
    return float((Listener(rate_hz).hear(sound) >= 0.5).mean())


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_speech_is_heard(rate_hz: int) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("needs espeak-ng, which is not on this machine")
    assert share(speech("The kids are talking by the door.", rate_hz), rate_hz) > 0.6


def test_silence_noise_and_tones_are_not() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(5 * RATE) / RATE
    assert share(np.zeros(5 * RATE, np.float32)) == 0
    assert share((0.05 * rng.standard_normal(5 * RATE)).astype(np.float32)) == 0
    assert share((0.2 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)) == 0


def test_frames_of_any_size_are_heard_the_same() -> None:
    sound = (0.1 * np.random.default_rng(1).standard_normal(RATE)).astype(np.float32)
    whole = Listener(RATE).hear(sound)
    listener = Listener(RATE)
    parts = np.concatenate([listener.hear(sound[start : start + 700]) for start in range(0, RATE, 700)])
    assert np.array_equal(whole, parts)
    assert len(whole) == RATE // 512
