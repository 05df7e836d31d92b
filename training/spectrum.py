"""The power spectrogram as two small matrix products: what every frozen front end begins with."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn


class Frames(nn.Module):
    """Overlapping frames without copying sample by sample, (B, T) -> (B, frames, fft_samples).

    Frames are centred, as in librosa: the waveform is padded by half a frame at both ends. A frame is the hop at its
    start and those after it, side by side, so framing is a reshape and a concatenation.

    Args:
        fft_samples: frame length, a multiple of ``hop_samples``.
        pad: "constant" for zeros, "replicate" for the first and last sample.

    Raises:
        ValueError: lengths that do not divide.
    """

    def __init__(self, fft_samples: int, hop_samples: int, pad: str = "constant") -> None:
        super().__init__()
        if fft_samples % hop_samples:
            raise ValueError(f"The frame length {fft_samples} must be a multiple of the hop; got {hop_samples}.")
        self.fft_samples, self.hop_samples, self.pad = fft_samples, hop_samples, pad

    def forward(self, waveform: Tensor) -> Tensor:
        batch, half = waveform.shape[0], self.fft_samples // 2
        # One dimension more, because torch pads by replication only what has channels.
        padded = nn.functional.pad(waveform[:, None], (half, half), mode=self.pad)[:, 0]
        pieces, hops = self.fft_samples // self.hop_samples, padded.shape[1] // self.hop_samples
        rows = padded[:, : hops * self.hop_samples].reshape(batch, hops, self.hop_samples)
        frames = hops - pieces + 1
        return torch.cat([rows[:, i : i + frames] for i in range(pieces)], dim=2)


class PowerSpectrogram(nn.Module):
    """Squared magnitude of the short-time Fourier transform of frames, (B, F, N) -> (B, F, columns).

    The window is a periodic Hann, as in ``librosa.stft``.

    A plain matrix product with all sines and cosines costs several times as much as an FFT. This is one Cooley-Tukey
    step instead: with N = P * Q and n = Q a + b, k = p + P q,

        X[p + P q] = sum_b  e^(-2 pi i b q / Q)  e^(-2 pi i b p / N)  sum_a e^(-2 pi i a p / P)  x[Q a + b]

    that is, two small matrix products with a twiddle factor between. The signal is real, so p = 0 .. P/2 is enough.
    Bins come in the order (p, q), some twice: the filter banks that follow are laid out to suit by :meth:`columns`, so
    nothing is ever sorted.

    Args:
        fft_samples: frame length N, no prime.

    Raises:
        ValueError: a length without divisors.
    """

    window: Tensor
    first: Tensor
    twiddle_re: Tensor
    twiddle_im: Tensor
    second: Tensor

    def __init__(self, fft_samples: int) -> None:
        super().__init__()
        small = max(n for n in range(1, math.isqrt(fft_samples) + 1) if fft_samples % n == 0)
        if small == 1:
            raise ValueError(f"The frame length must have a divisor near its square root; {fft_samples} is a prime.")
        self.fft_samples, self.p, self.q = fft_samples, small, fft_samples // small

        half, a, b = np.arange(self.p // 2 + 1), np.arange(self.p), np.arange(self.q)
        self.rows = len(half)
        first = -2 * np.pi * np.outer(half, a) / self.p
        twiddle = -2 * np.pi * np.outer(half, b) / fft_samples
        second = -2 * np.pi * np.outer(b, b) / self.q
        cos, sin = np.cos(second), np.sin(second)
        self._constant("window", np.hanning(fft_samples + 1)[:-1])
        self._constant("first", np.concatenate([np.cos(first), np.sin(first)]))  # (2 rows, P)
        self._constant("twiddle_re", np.cos(twiddle))  # (rows, Q)
        self._constant("twiddle_im", np.sin(twiddle))
        self._constant("second", np.block([[cos, sin], [-sin, cos]]))  # (2Q, 2Q), on [re | im]

        bins = half[:, None] + self.p * b[None, :]
        self._bin_of = np.minimum(bins, fft_samples - bins).reshape(-1)

    def _constant(self, name: str, value: np.ndarray) -> None:
        self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)

    def columns(self, filters: np.ndarray) -> Tensor:
        """A filter bank (bands, N/2 + 1) laid out for the spectrum's columns: float32 (columns, bands)."""
        laid_out = filters.T[self._bin_of].astype(np.float32)
        # A bin that comes twice must count once.
        _, once = np.unique(self._bin_of, return_index=True)
        laid_out[np.setdiff1d(np.arange(len(laid_out)), once)] = 0.0
        return torch.from_numpy(laid_out)

    def forward(self, frames: Tensor) -> Tensor:
        batch, count, rows, q = frames.shape[0], frames.shape[1], self.rows, self.q
        grid = (frames * self.window).reshape(batch * count, self.p, q)  # (BF, a, b)
        partial = torch.matmul(self.first, grid)  # (BF, 2 rows, b)
        re, im = partial[:, :rows], partial[:, rows:]
        turned = torch.cat(
            [re * self.twiddle_re - im * self.twiddle_im, re * self.twiddle_im + im * self.twiddle_re], dim=2
        )
        spectrum = turned.reshape(batch * count * rows, 2 * q) @ self.second  # (BF rows, [re q | im q])
        re, im = spectrum[:, :q], spectrum[:, q:]
        return (re * re + im * im).reshape(batch, count, rows * q)
