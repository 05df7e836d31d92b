"""Frozen front ends: waveform (B, T) -> features (B, bands, frames), as modules that export to ONNX.

No randomness and no learning here. Each agrees with librosa, whose definitions these are; the tests say how closely.
"""

from __future__ import annotations

import math

import librosa
import numpy as np
import torch
from torch import Tensor, nn

from training.spec import AudioSpec

# librosa.power_to_db: the floor of the power and the range kept below each clip's loudest point.
_AMIN = 1e-10
_TOP_DB = 80.0


class PowerSpectrogram(nn.Module):
    """Squared magnitude of the short-time Fourier transform, (B, T) -> (B, frames, bins).

    Frames are centred and zero-padded at both ends as in ``librosa.stft``; the window is a periodic Hann.

    A plain matrix product with all sines and cosines costs several times as much as an FFT. This is one Cooley-Tukey
    step instead: with N = R * R and n = R a + b, k = p + R q,

        X[p + R q] = sum_b  e^(-2 pi i b q / R)  e^(-2 pi i b p / N)  sum_a e^(-2 pi i a p / R)  x[R a + b]

    that is, two small matrix products with a twiddle factor between. The signal is real, so p = 0 .. R/2 is enough.
    Bins come in the order (p, q), some twice; :attr:`bin_of` says which is which, and the filter bank that follows is
    laid out to suit, so nothing is ever sorted.

    Args:
        fft_samples: frame length N, a square of an even number.
        hop_samples: N must be a multiple of it.

    Raises:
        ValueError: lengths that the method does not cover.
    """

    window: Tensor
    first: Tensor
    twiddle_re: Tensor
    twiddle_im: Tensor
    second: Tensor

    def __init__(self, fft_samples: int, hop_samples: int) -> None:
        super().__init__()
        radix = math.isqrt(fft_samples)
        if radix * radix != fft_samples or radix % 2:
            raise ValueError(f"The frame length must be the square of an even number, such as 1024; got {fft_samples}.")
        if fft_samples % hop_samples:
            raise ValueError(f"The frame length {fft_samples} must be a multiple of the hop; got {hop_samples}.")
        self.fft_samples, self.hop_samples, self.radix = fft_samples, hop_samples, radix

        index = np.arange(radix)
        half = np.arange(radix // 2 + 1)
        first = -2 * np.pi * np.outer(half, index) / radix
        twiddle = -2 * np.pi * np.outer(half, index) / fft_samples
        second = -2 * np.pi * np.outer(index, index) / radix
        cos, sin = np.cos(second), np.sin(second)
        self._constant("window", np.hanning(fft_samples + 1)[:-1])
        self._constant("first", np.concatenate([np.cos(first), np.sin(first)]))  # (2P, R)
        self._constant("twiddle_re", np.cos(twiddle))  # (P, R)
        self._constant("twiddle_im", np.sin(twiddle))
        self._constant("second", np.block([[cos, sin], [-sin, cos]]))  # (2R, 2R), on [re | im]

        bins = half[:, None] + radix * index[None, :]
        self.bin_of: np.ndarray = np.minimum(bins, fft_samples - bins).reshape(-1)
        """int (P * R,): which of the N/2 + 1 bins each output column holds."""

    def _constant(self, name: str, value: np.ndarray) -> None:
        self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        batch, radix, half = waveform.shape[0], self.radix, self.radix // 2 + 1
        pieces = self.fft_samples // self.hop_samples
        padded = nn.functional.pad(waveform, (self.fft_samples // 2, self.fft_samples // 2))
        hops = padded.shape[1] // self.hop_samples
        frames = hops - pieces + 1
        # Framing by reshaping: a frame is the hop at its start and the ones after it, side by side.
        rows = padded[:, : hops * self.hop_samples].reshape(batch, hops, self.hop_samples)
        framed = torch.cat([rows[:, i : i + frames] for i in range(pieces)], dim=2)  # (B, F, N)

        grid = (framed * self.window).reshape(batch * frames, radix, radix)  # (BF, a, b)
        partial = torch.matmul(self.first, grid)  # (BF, 2P, b)
        re, im = partial[:, :half], partial[:, half:]
        turned = torch.cat(
            [re * self.twiddle_re - im * self.twiddle_im, re * self.twiddle_im + im * self.twiddle_re], dim=2
        )
        spectrum = turned.reshape(batch * frames * half, 2 * radix) @ self.second  # (BFP, [re q | im q])
        re, im = spectrum[:, :radix], spectrum[:, radix:]
        return (re * re + im * im).reshape(batch, frames, half * radix)


class LogMel(nn.Module):
    """Mel spectrogram in decibels, (B, T) -> (B, mel_bands, frames); ``librosa.power_to_db`` of ``melspectrogram``."""

    filters: Tensor

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        self.power = PowerSpectrogram(spec.fft_samples, spec.frame_hop_samples)
        mel = librosa.filters.mel(sr=spec.rate_hz, n_fft=spec.fft_samples, n_mels=spec.mel_bands)  # (M, bins)
        columns = mel.T[self.power.bin_of]
        # A bin that comes twice must count once.
        _, first = np.unique(self.power.bin_of, return_index=True)
        twice = np.setdiff1d(np.arange(len(columns)), first)
        columns[twice] = 0.0
        self.register_buffer("filters", torch.tensor(columns), persistent=False)  # (P * R, M)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.frames(waveform).transpose(1, 2)

    def frames(self, waveform: Tensor) -> Tensor:
        """The same with time first: (B, frames, mel_bands)."""
        power = self.power(waveform) @ self.filters
        decibel = 10.0 * torch.log10(power.clamp(min=_AMIN))
        return torch.maximum(decibel, decibel.amax(dim=(1, 2), keepdim=True) - _TOP_DB)


class Mfcc(nn.Module):
    """Mel-frequency cepstral coefficients, (B, T) -> (B, mfcc, frames); ``librosa.feature.mfcc``."""

    dct: Tensor

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        self.log_mel = LogMel(spec)
        band = np.arange(spec.mel_bands)
        order = np.arange(spec.mfcc)
        # DCT-II with orthonormal scaling, as scipy.fft.dct(norm="ortho").
        dct = np.cos(np.pi / spec.mel_bands * (band[:, None] + 0.5) * order[None, :]) * math.sqrt(2 / spec.mel_bands)
        dct[:, 0] /= math.sqrt(2)
        self.register_buffer("dct", torch.tensor(dct, dtype=torch.float32), persistent=False)  # (M, mfcc)

    def forward(self, waveform: Tensor) -> Tensor:
        return (self.log_mel.frames(waveform) @ self.dct).transpose(1, 2)


FEATURES: dict[str, type[nn.Module]] = {"mfcc": Mfcc, "log_mel": LogMel}
"""Front ends by the name they have on the command line; each is made from an :class:`AudioSpec`."""
