"""Sounds and files that the tests make for themselves; none of any corpus."""

from __future__ import annotations

import io
import subprocess

import numpy as np
import soundfile
import soxr

from benchmarks.sounds import Sound as Sound
from benchmarks.sounds import encode as encode
from benchmarks.sounds import encode_av as encode_av
from benchmarks.sounds import voice as voice


def speech(text: str, rate_hz: int, pitch: int = 50) -> Sound:
    """Somebody says it, float32 (T,), peak 0.5: by espeak-ng, which what is no voice cannot stand in for.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
    """
    command = ["espeak-ng", "-v", "en", "-p", str(pitch), "--stdout", text]
    said = subprocess.run(command, capture_output=True, check=True).stdout
    sound, source_hz = soundfile.read(io.BytesIO(said), dtype="float32")
    resampled: Sound = soxr.resample(sound, source_hz, rate_hz)
    scaled: Sound = 0.5 * resampled / np.abs(resampled).max()
    return scaled
