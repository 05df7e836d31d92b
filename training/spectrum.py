"""The power spectrogram as two small matrix products: what every frozen front end begins with."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn


class Frames(nn.Module):
    """Overlapping frames without copying sample by sample, (B, T) -> (B, frames, fft_samples).

    Frames are centred, as in librosa: the waveform is padded by half a frame at both ends. A frame is the hop at its
    start and those after it, so framing is a choice of rows.

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
        batch, samples = waveform.shape
        before = self.fft_samples // 2
        hops = (samples + 2 * before) // self.hop_samples
        around = (before, hops * self.hop_samples - samples - before)  # no more than whole hops
        if self.pad == "constant":
            padded = nn.functional.pad(waveform, around)
        else:  # torch pads so only what has channels
            padded = nn.functional.pad(waveform[:, None], around, mode=self.pad)[:, 0]
        pieces = self.fft_samples // self.hop_samples
        frames = hops - pieces + 1
        rows = padded.reshape(batch, hops, self.hop_samples)
        # One copy, where slices put side by side are several: half of what framing takes.
        which = torch.arange(frames, device=waveform.device)[:, None] + torch.arange(pieces, device=waveform.device)
        return rows.index_select(1, which.flatten()).reshape(batch, frames, self.fft_samples)


class PowerSpectrogram(nn.Module):
    """Squared magnitude of the short-time Fourier transform of frames, (B, F, N) -> (B, F, columns).

    The window is a periodic Hann, as in ``librosa.stft``.

    A plain matrix product with all sines and cosines costs several times as much as an FFT. This is one Cooley-Tukey
    step instead: with N = P * Q and n = Q a + b, k = p + P q,

        X[p + P q] = sum_b  e^(-2 pi i b (q / Q + p / N))  sum_a e^(-2 pi i a p / P)  x[Q a + b]

    that is, two small matrix products. The second has a matrix for each p, so that the twiddle factors are in it: to
    multiply by them apart took as long as the product. The signal is real, so p = 0 .. P/2 is enough. Bins come in the
    order (p, q), some twice: the filter banks that follow are laid out to suit by :meth:`columns`, so nothing is ever
    sorted.

    Args:
        fft_samples: frame length N, no prime.

    Raises:
        ValueError: a length without divisors.
    """

    window: Tensor
    first: Tensor
    second_re: Tensor
    second_im: Tensor

    def __init__(self, fft_samples: int) -> None:
        super().__init__()
        # The first product has one matrix for all, the second one for each p: so P is the larger of the two.
        p = next(n for n in range(math.isqrt(fft_samples) + 1, fft_samples + 1) if fft_samples % n == 0)
        if p == fft_samples:
            raise ValueError(f"The frame length must have a divisor near its square root; {fft_samples} is a prime.")
        self.fft_samples, self.p, self.q = fft_samples, p, fft_samples // p

        half, a, b = np.arange(self.p // 2 + 1), np.arange(self.p), np.arange(self.q)
        self.rows = len(half)
        first = -2 * np.pi * np.outer(half, a) / self.p
        second = -2 * np.pi * b[:, None] * (b / self.q + half[:, None, None] / fft_samples)  # (rows, b, q)
        cos, sin = np.cos(second), np.sin(second)
        self._constant("window", np.hanning(fft_samples + 1)[:-1])
        self._constant("first", np.stack([np.cos(first), np.sin(first)], axis=1).reshape(-1, self.p))  # (2 rows, P)
        # Both (rows, 2Q, Q), on [re | im]. One product of both would have to be cut in two, which took half as long.
        self._constant("second_re", np.concatenate([cos, -sin], axis=1))
        self._constant("second_im", np.concatenate([sin, cos], axis=1))

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
        batch, count = frames.shape[:2]
        grid = (frames * self.window).reshape(batch * count, self.p, self.q)  # (BF, a, b)
        partial = torch.matmul(self.first, grid).reshape(batch * count, self.rows, 2 * self.q)  # (BF, p, [re b | im b])
        # Each p by its own matrix; ONNX Runtime makes one step of the transposition and the product.
        partial = partial.transpose(0, 1)  # (rows, BF, [re b | im b])
        re, im = torch.matmul(partial, self.second_re), torch.matmul(partial, self.second_im)
        return (re * re + im * im).transpose(0, 1).reshape(batch, count, self.rows * self.q)
