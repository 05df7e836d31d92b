"""Frozen front ends: waveform (B, T) -> features (B, bands, frames), as modules that export to ONNX.

No randomness and no learning here. Each agrees with librosa, whose definitions these are; the tests say how closely.
"""

from __future__ import annotations

import math

import librosa
import numpy as np
import torch
from scipy.fft import dct
from scipy.signal import savgol_filter
from torch import Tensor, nn

from training.spec import AVERAGED, CLASSIC, STACKED, AudioSpec, FrameSpec
from training.spectrum import Frames, PowerSpectrogram

# librosa.power_to_db: the floor of the power and the range kept below each clip's loudest point.
_AMIN = 1e-10
_TOP_DB = 80.0
_DB = 10 / math.log(10)
_DELTA_FRAMES = 9  # librosa.feature.delta's default width


class LogMel(nn.Module):
    """Mel spectrogram in decibels, (B, T) -> (B, mel_bands, frames); ``librosa.power_to_db`` of ``melspectrogram``."""

    filters: Tensor

    def __init__(self, spec: AudioSpec, numbers: FrameSpec = CLASSIC) -> None:
        super().__init__()
        self.frame = Frames(numbers.fft_samples, numbers.hop_samples)
        self.power = PowerSpectrogram(numbers.fft_samples)
        mel = librosa.filters.mel(sr=spec.rate_hz, n_fft=numbers.fft_samples, n_mels=numbers.mel_bands)
        self.register_buffer("filters", self.power.columns(mel), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.decibels(self.power(self.frame(waveform))).transpose(1, 2)

    def decibels(self, power: Tensor) -> Tensor:
        """Power spectrum (B, F, columns) -> (B, F, mel_bands)."""
        decibel = _DB * torch.log((power @ self.filters).clamp(min=_AMIN))
        return torch.maximum(decibel, decibel.amax(dim=(1, 2), keepdim=True) - _TOP_DB)


class Mfcc(nn.Module):
    """Mel-frequency cepstral coefficients, (B, T) -> (B, mfcc, frames); ``librosa.feature.mfcc``."""

    dct: Tensor

    def __init__(self, spec: AudioSpec, numbers: FrameSpec = CLASSIC) -> None:
        super().__init__()
        self.log_mel = LogMel(spec, numbers)
        # What a transform makes of each band alone, which is its matrix.
        cosines = dct(np.eye(numbers.mel_bands), norm="ortho", axis=1)[:, : numbers.mfcc]
        self.register_buffer("dct", torch.tensor(cosines, dtype=torch.float32), persistent=False)  # (M, mfcc)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.cepstra(self.log_mel(waveform).transpose(1, 2)).transpose(1, 2)

    def cepstra(self, decibels: Tensor) -> Tensor:
        """Log-mel (B, F, mel_bands) -> (B, F, mfcc)."""
        return decibels @ self.dct


class Chroma(nn.Module):
    """Energy per pitch class, the loudest of a frame 1: (B, F, columns) -> (B, F, 12).

    ``librosa.feature.chroma_stft`` with ``tuning=0``: estimating the tuning is a search, and voices have none.
    """

    filters: Tensor

    def __init__(self, spec: AudioSpec, power: PowerSpectrogram) -> None:
        super().__init__()
        filters = librosa.filters.chroma(sr=spec.rate_hz, n_fft=power.fft_samples, tuning=0.0)
        self.register_buffer("filters", power.columns(filters), persistent=False)

    def forward(self, power: Tensor) -> Tensor:
        chroma = power @ self.filters
        loudest = chroma.amax(dim=2, keepdim=True)
        # librosa.util.normalize leaves alone what is too small to divide by.
        return torch.where(loudest < torch.finfo(torch.float32).tiny, chroma, chroma / loudest.clamp(min=1e-30))


def zero_crossing_rate(frames: Tensor) -> Tensor:
    """Share of sign changes per frame, (B, F, N) -> (B, F, 1); ``librosa.feature.zero_crossing_rate``.

    Its frames are padded with the first and last sample, and what is within 1e-10 of zero counts as positive.
    """
    negative = (frames < -1e-10).to(frames.dtype)
    return (negative[..., 1:] - negative[..., :-1]).abs().sum(dim=2, keepdim=True) / frames.shape[2]


def rms(frames: Tensor) -> Tensor:
    """Root mean square per frame, (B, F, N) -> (B, F, 1); ``librosa.feature.rms``."""
    return frames.square().mean(dim=2, keepdim=True).sqrt()


def delta_matrix(frames: int) -> np.ndarray:
    """``librosa.feature.delta`` over that many frames as a matrix (frames, frames) from the right.

    It is linear: a Savitzky-Golay derivative with the edges interpolated, so its columns are what it makes of impulses.
    """
    matrix: np.ndarray = savgol_filter(np.eye(frames), _DELTA_FRAMES, deriv=1, polyorder=1, axis=-1, mode="interp")
    return matrix


class _Mixed(nn.Module):
    """What several front ends put together in ways of their own, all over the same frames."""

    def __init__(self, spec: AudioSpec, numbers: FrameSpec) -> None:
        super().__init__()
        self.frame = Frames(numbers.fft_samples, numbers.hop_samples)
        self.frame_edge = Frames(numbers.fft_samples, numbers.hop_samples, pad="replicate")
        self.mfcc = Mfcc(spec, numbers)
        self.power = self.mfcc.log_mel.power
        self.chroma = Chroma(spec, self.power)

    def parts(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(MFCC, mel bands in decibels, chroma, zero crossings, RMS), each (B, frames, bands)."""
        framed = self.frame(waveform)
        power = self.power(framed)
        decibels = self.mfcc.log_mel.decibels(power)
        crossings = zero_crossing_rate(self.frame_edge(waveform))
        return self.mfcc.cepstra(decibels), decibels, self.chroma(power), crossings, rms(framed)


class Stacked(_Mixed):
    """174 features by 128 frames: 40 MFCC, their first and second differences, 40 mel bands, 12 chroma, ZCR, RMS.

    (B, T) -> (B, 174, 128). The second difference is librosa's ``delta`` of the first.
    """

    delta: Tensor

    def __init__(self, spec: AudioSpec, numbers: FrameSpec = STACKED) -> None:
        super().__init__(spec, numbers)
        # Of an odd length, centred frames are as many as hops.
        matrix = delta_matrix(spec.window_samples // numbers.hop_samples)
        self.register_buffer("delta", torch.tensor(matrix, dtype=torch.float32), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        cepstra, *rest = (part.transpose(1, 2) for part in self.parts(waveform))
        velocity = cepstra @ self.delta
        return torch.cat([cepstra, velocity, velocity @ self.delta, *rest], dim=1)


class Averaged(_Mixed):
    """162 numbers a window, each a mean over its frames: ZCR, 12 chroma, 20 MFCC, RMS, 128 mel bands in decibels.

    (B, T) -> (B, 162, 1). What the Keras projects on these corpora feed to one-dimensional convolutions, but for the
    mel bands: they take the power as it is, which spreads over ten orders of magnitude.
    """

    def __init__(self, spec: AudioSpec, numbers: FrameSpec = AVERAGED) -> None:
        super().__init__(spec, numbers)

    def forward(self, waveform: Tensor) -> Tensor:
        cepstra, decibels, chroma, crossings, loudness = self.parts(waveform)
        return torch.cat([crossings, chroma, cepstra, loudness, decibels], dim=2).mean(dim=1)[:, :, None]


class Waveform(nn.Module):
    """The waveform, zero mean and unit deviation, (B, T) -> (B, 1, T): for encoders that learn their own front end."""

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        del spec  # any rate
        self.floor = 1e-7  # as transformers' feature extractor has it

    def forward(self, waveform: Tensor) -> Tensor:
        centred = waveform - waveform.mean(dim=1, keepdim=True)
        return (centred / (centred.square().mean(dim=1, keepdim=True) + self.floor).sqrt())[:, None]


FEATURES: dict[str, type[nn.Module]] = {
    "mfcc": Mfcc,
    "log_mel": LogMel,
    "stacked": Stacked,
    "averaged": Averaged,
    "waveform": Waveform,
}
"""Front ends by the name they have on the command line; each is made from an :class:`AudioSpec`."""
