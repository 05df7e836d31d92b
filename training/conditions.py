"""What users' recordings are and the corpora's are not: noisy, telephoned, clipped, cut. For exams, not training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import soxr

from training.spec import AUDIO

Sound = npt.NDArray[np.float32]
Condition = Callable[[Sound, np.random.Generator], Sound]
"""A clip's waveform, float32 (T,), as it would come out of that condition."""

_TELEPHONE_HZ = 8_000
_MU = 255  # ITU-T G.711


def noisy(snr_db: float, *, pink: bool = False) -> Condition:
    """Noise that many decibels below the clip's mean power, pauses included: RAVDESS's voices alone are 3 dB higher.

    Args:
        pink: its power falls with frequency, by 3 dB an octave, as that of streets and rooms roughly does; else white,
            which augmentation is too.
    """

    def condition(waveform: Sound, rng: np.random.Generator) -> Sound:
        noise = rng.standard_normal(len(waveform))
        if pink:
            spectrum = np.fft.rfft(noise)
            spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
            spectrum[0] = 0.0
            noise = np.fft.irfft(spectrum, len(noise))
        power = float(np.mean(np.square(waveform))) * 10 ** (-snr_db / 10)
        noise *= np.sqrt(power / np.mean(np.square(noise)))
        together: Sound = (waveform + noise).astype(np.float32)
        return together

    return condition


def telephone(waveform: Sound, _: np.random.Generator) -> Sound:
    """Down to 8 kHz, through 8 bits of mu-law, and back."""
    narrow = np.clip(soxr.resample(waveform, AUDIO.rate_hz, _TELEPHONE_HZ), -1, 1)
    compressed = np.sign(narrow) * np.log1p(_MU * np.abs(narrow)) / np.log1p(_MU)
    coded = np.round(compressed * 127) / 127
    expanded = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(_MU)) / _MU
    wide: Sound = soxr.resample(expanded.astype(np.float32), _TELEPHONE_HZ, AUDIO.rate_hz)
    return wide


def clipped(waveform: Sound, _: np.random.Generator) -> Sound:
    """Everything above a tenth of the peak cut off, as by a microphone that is turned up too far."""
    limit = 0.1 * float(np.abs(waveform).max())
    return np.clip(waveform, -limit, limit).astype(np.float32)


def cut(seconds: float) -> Condition:
    """That many seconds from the middle, where the speech is; shorter clips as they are."""

    def condition(waveform: Sound, _: np.random.Generator) -> Sound:
        spare = len(waveform) - round(seconds * AUDIO.rate_hz)
        start = max(0, spare // 2)
        middle: Sound = waveform[start : len(waveform) - start]
        return middle

    return condition


CONDITIONS: dict[str, Condition] = {
    "noise 20 dB": noisy(20),
    "noise 10 dB": noisy(10),
    "noise 5 dB": noisy(5),
    "noise 0 dB": noisy(0),
    "pink noise 20 dB": noisy(20, pink=True),
    "pink noise 10 dB": noisy(10, pink=True),
    "telephone": telephone,
    "clipped": clipped,
    "cut to 1 s": cut(1),
    "cut to 2 s": cut(2),
    "cut to 3 s": cut(3),
    "cut to 5 s": cut(5),
}
"""Conditions of the report, by name."""
