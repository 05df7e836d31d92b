"""Clips to send, made here, so that nobody needs a corpus to measure."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import soundfile

Sound = npt.NDArray[np.float32]


def voice(seconds: float, rate_hz: int = 16_000, pitch_hz: float = 150.0, seed: int = 0) -> Sound:
    """Something voice-like, float32 (T,): gliding harmonics under syllables, a little breath, peak 0.5."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch = pitch_hz * (1 + 0.2 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / rate_hz
    harmonics = [n for n in range(1, 20) if n * pitch_hz * 1.2 < rate_hz / 2]
    tone = sum((np.sin(n * phase) / n for n in harmonics), np.zeros_like(time))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)
    sound = tone * syllables + 0.01 * rng.standard_normal(len(time))
    scaled: Sound = (0.5 * sound / max(np.abs(sound).max(), 1e-9)).astype(np.float32)
    return scaled


def wav(seconds: float = 3.0, rate_hz: int = 16_000, seed: int = 0) -> bytes:
    """The same as a 16-bit WAV file."""
    out = io.BytesIO()
    soundfile.write(out, voice(seconds, rate_hz, seed=seed), rate_hz, format="WAV", subtype="PCM_16")
    return out.getvalue()
