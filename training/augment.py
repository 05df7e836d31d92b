"""What is done to clips in training only. Randomness lives here; the frozen front ends never import this.

On waveforms, in the loader: noise, stretch, pitch, shift, gain, room (audiomentations). On features, where the network
is: warps of time and frequency, masks (SpecAugment), mixup. Everything is off at 0.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import fftconvolve
from torch import Tensor, nn

Sound = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AugmentConfig:
    """How much of what. The waveform's are probabilities per clip; each is off at 0."""

    noise: float = 0.0
    """Gaussian noise at 5 to 30 dB below the clip."""
    stretch: float = 0.0
    """Tempo by up to 10 %, pitch unchanged."""
    pitch: float = 0.0
    """Pitch by up to 2 semitones, tempo unchanged."""
    shift: float = 0.0
    """Moved by up to a tenth of the clip, silence behind it."""
    gain: float = 0.0
    """Louder or softer by up to 12 dB."""
    room: float = 0.0
    """A small room's echo of 0.1 to 0.4 s."""
    warp: float = 0.0
    """Largest share by which the picture of features is stretched: 1.5 times this in time, half of it in frequency."""
    masks: int = 0
    """Masks of time and as many of frequency that blank parts of the picture (SpecAugment)."""
    mixup: float = 0.0
    """Alpha of the beta distribution by which pairs of clips are mixed."""

    def __post_init__(self) -> None:
        for name in ("noise", "stretch", "pitch", "shift", "gain", "room"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name} is a probability, from 0 to 1; got {getattr(self, name)}.")
        for name in ("warp", "masks", "mixup"):
            if not 0 <= getattr(self, name) <= 10:
                raise ValueError(f"augment.{name} must be from 0 to 10; got {getattr(self, name)}.")


def random_crop(waveform: Tensor, samples: int) -> Tensor:
    """A window from a random place, float32 (T,) -> (samples,); a shorter one is zero-padded behind, as in serving."""
    spare = waveform.shape[0] - samples
    if spare <= 0:
        return torch.nn.functional.pad(waveform, (0, -spare))
    start = int(torch.randint(spare + 1, ()))
    return waveform[start : start + samples]


@lru_cache
def _chain(config: AugmentConfig) -> Any:
    # Here, because it takes a second to import and is seldom asked for.
    import audiomentations

    steps = [
        audiomentations.TimeStretch(0.9, 1.1, leave_length_unchanged=False, p=config.stretch),
        audiomentations.PitchShift(-2, 2, p=config.pitch),
        audiomentations.Shift(-0.1, 0.1, rollover=False, p=config.shift),
        audiomentations.Gain(-12, 12, p=config.gain),
        audiomentations.Lambda(_in_a_room, p=config.room),
        audiomentations.AddGaussianSNR(5, 30, p=config.noise),
    ]
    active = [step for step in steps if step.p > 0]
    return audiomentations.Compose(active) if active else None


def augment_waveform(waveform: Tensor, config: AugmentConfig, rate_hz: int) -> Tensor:
    """One clip's waveform, float32 (T,) -> (T',), changed by chance.

    The chance comes from torch's generator, which is seeded by the epoch: a resumed run is the run that never stopped.
    """
    chain = _chain(config)
    if chain is None:
        return waveform
    seed = int(torch.randint(2**31, ()))
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - where audiomentations draws from
    return torch.from_numpy(np.ascontiguousarray(chain(waveform.numpy(), rate_hz), dtype=np.float32))


def _in_a_room(samples: Sound, sample_rate: int) -> Sound:
    """Convolved with noise that decays by 60 dB in 0.1 to 0.4 s behind the direct sound (Moorer 1979)."""
    decay_s = np.random.uniform(0.1, 0.4)  # noqa: NPY002
    time = np.arange(int(decay_s * sample_rate)) / sample_rate
    echo = np.random.standard_normal(len(time)) * 10 ** (-3 * time / decay_s)  # noqa: NPY002
    echo *= np.random.uniform(0.1, 0.5) / np.sqrt(np.sum(echo**2))  # noqa: NPY002
    echo[0] = 1.0
    wet: Sound = fftconvolve(samples, echo)[: len(samples)].astype(np.float32)
    return wet


class PictureAugment(nn.Module):
    """Warps and masks of normalised features, (B, bands, frames) -> the same; identity outside training."""

    # Widths of masks as shares of each axis (Park et al. 2019, arXiv:1904.08779, scaled to small pictures).
    MASK_BANDS, MASK_FRAMES = 0.125, 0.13

    def __init__(self, config: AugmentConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or features.shape[2] == 1:
            return features
        if self.config.warp:
            features = self._warp(features)
        for _ in range(self.config.masks):
            features = self._mask(features, 1, self.MASK_BANDS)
            features = self._mask(features, 2, self.MASK_FRAMES)
        return features

    def _warp(self, features: Tensor) -> Tensor:
        """Another tempo, another vocal tract: an affine map of the picture, its start fixed, its bands moved."""
        batch, bands, frames = features.shape

        def uniform() -> Tensor:
            return 2 * torch.rand(batch, device=features.device) - 1

        time = 1 + 1.5 * self.config.warp * uniform()
        frequency = 1 + 0.5 * self.config.warp * uniform()
        shift = 20 * self.config.warp * uniform() / bands  # up to two bands at 0.1
        where = torch.zeros(batch, 2, 3, device=features.device)
        where[:, 0, 0], where[:, 0, 2] = time, time - 1
        where[:, 1, 1], where[:, 1, 2] = frequency, frequency - 1 + 2 * shift
        grid = nn.functional.affine_grid(where, [batch, 1, bands, frames], align_corners=False)
        picture = features[:, None].float()
        return nn.functional.grid_sample(picture, grid, padding_mode="border", align_corners=False)[:, 0]

    def _mask(self, features: Tensor, axis: int, share: float) -> Tensor:
        """One stripe of each picture set to its mean."""
        batch, size = features.shape[0], features.shape[axis]
        width = torch.rand(batch, 1, device=features.device) * share * size
        start = torch.rand(batch, 1, device=features.device) * (size - width)
        place = torch.arange(size, device=features.device)[None]
        inside = (place >= start) & (place < start + width)
        inside = inside[:, :, None] if axis == 1 else inside[:, None, :]
        return torch.where(inside, features.mean(dim=(1, 2), keepdim=True), features)


def mix(features: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018, arXiv:1710.09412): each item with another, the larger share its own.

    Args:
        features: (B, bands, frames).
        targets: (B, classes), probabilities.
    """
    batch = len(features)
    share = torch.distributions.Beta(alpha, alpha).sample((batch,)).to(features.device)
    share = torch.maximum(share, 1 - share)
    others = torch.randperm(batch, device=features.device)
    mixed = share[:, None, None] * features + (1 - share[:, None, None]) * features[others]
    return mixed, share[:, None] * targets + (1 - share[:, None]) * targets[others]
