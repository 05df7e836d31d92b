"""What is done to audio in training only. Randomness lives here; the frozen front ends never import this."""

from __future__ import annotations

import torch
from torch import Tensor


def random_crop(waveform: Tensor, samples: int) -> Tensor:
    """A window from a random place, float32 (T,) -> (samples,); a shorter one is zero-padded behind, as in serving."""
    spare = waveform.shape[0] - samples
    if spare <= 0:
        return torch.nn.functional.pad(waveform, (0, -spare))
    start = int(torch.randint(spare + 1, ()))
    return waveform[start : start + samples]
