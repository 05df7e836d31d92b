"""Bytes in, windows out: decoding, down-mixing, resampling and cutting, for serving and training alike.

What follows a window is in the exported graph; what comes before it is here, once. Long input never stands in memory
at its own rate: blocks are decoded, mixed to mono and resampled one after the other, so ten minutes of 192 kHz
8-channel audio take the memory of ten minutes at the model's rate.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

# Named again, because training may know this module of the service and no other.
from serving.errors import AudioTooLong, AudioTooShort, BadSamples, UnsupportedAudio
from serving.errors import EmptyAudio as EmptyAudio
from serving.errors import NoSpeech as NoSpeech
from serving.errors import RequestError as RequestError
from serving.formats import Samples as Samples
from serving.formats import Source, open_source
from serving.formats import pcm16 as pcm16

_LEVEL_FRAME_S = 0.025  # the usual short-time frame of speech analysis
# The quietest of 1,200 RAVDESS clips peaks at -55 dBFS in such a frame; a muted line's dither is below -90.
_SILENCE_DBFS = -65.0
# Float files may pass full scale a little; far beyond it they hold integers that nobody scaled.
_MAX_ABS_SAMPLE = 10.0
_LEVEL_FRAMES_AT_ONCE = 1024
_SAMPLE_BYTES = 4
_SPARE_SAMPLES = 4096  # a resampler gives a few more than the ratio says


@dataclass(frozen=True)
class Limits:
    """What audio is accepted. The one owner of these numbers."""

    min_duration_s: float = 0.1
    max_duration_s: float = 600.0
    min_rate_hz: int = 8_000
    max_rate_hz: int = 192_000
    max_channels: int = 8
    full_length_values: int = 96_000
    """Values per second, over all channels, up to which a recording may have its full length; with more of them it may
    be that much shorter. Silence at 192 kHz in eight channels is ten minutes in 60 kB, and a core's work of seconds."""

    def longest_s(self, rate_hz: int, channels: int) -> float:
        """Longest recording of that rate and so many channels."""
        return self.max_duration_s * min(1.0, self.full_length_values / (rate_hz * channels))


@dataclass(frozen=True)
class WindowSpec:
    """How a model wants its input cut. Comes from the exported artifact, or from training's own spec."""

    rate_hz: int
    window_samples: int
    hop_samples: int


@dataclass(frozen=True)
class Clip:
    """Decoded audio.

    Attributes:
        samples: float32 (T,), mono, at the rate asked for, full scale = 1.
        duration_s: length in the source's own samples, before resampling.
        announced_s: length by the file's header; None where it has none. More than ``duration_s``: it was cut short.
        source_rate_hz, channels, format: what the file said of itself.
    """

    samples: Samples
    duration_s: float
    announced_s: float | None
    source_rate_hz: int
    channels: int
    format: str


@dataclass(frozen=True)
class Windows:
    """Equal windows cut from one clip; copied only when a slice is taken.

    Attributes:
        samples: float32 (T,), T >= window_samples (zero-padded where the clip was shorter).
        starts: int (N,), first sample of each window, ascending.
    """

    samples: Samples
    starts: npt.NDArray[np.int64]
    window_samples: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, rows: slice) -> Samples:
        """Windows of that slice, float32 (n, window_samples), C-contiguous."""
        view = np.lib.stride_tricks.sliding_window_view(self.samples, self.window_samples)
        return view[self.starts[rows]]


def decode(data: bytes, rate_hz: int, limits: Limits | None = None) -> Clip:
    """Decode an encoded file to mono at ``rate_hz``.

    Channels are averaged. The length is asked of the header first and counted while decoding, so that neither a small
    file with hours in it nor a lying header costs more than the limit. A file that is cut short gives what it has.

    Args:
        data: the whole encoded file.
        rate_hz: sample rate of the result.
        limits: what is accepted; the defaults of :class:`Limits` where None.

    Raises:
        EmptyAudio: no bytes, or a header and no samples.
        UnsupportedAudio: not one of the formats that are read, or as of :func:`read`.
        AudioTooLong, AudioTooShort, BadSamples: see :func:`read`.
        Overloaded: what decodes the format is at other files, and stays there.
    """
    return read(open_source(data), rate_hz, limits)


def read(
    source: Source, rate_hz: int, limits: Limits | None = None, take: Callable[[int], None] = lambda _: None
) -> Clip:
    """Take an opened source to mono at ``rate_hz``, and close it whatever comes; arguments as of :func:`decode`.

    Args:
        take: is told of so many bytes more before room is made for them: of all at once where the header has the
            length.

    Raises:
        RequestError: by ``take``.
        EmptyAudio: a header and no samples.
        UnsupportedAudio: a rate or channel count out of range or changing midway, or nothing decodes.
        AudioTooLong: over ``limits.longest_s``.
        AudioTooShort: under ``limits.min_duration_s``.
        BadSamples: NaN, infinite or unscaled samples.
    """
    with contextlib.closing(source):
        return _read(source, rate_hz, limits or Limits(), take)


def _read(source: Source, rate_hz: int, limits: Limits, take: Callable[[int], None]) -> Clip:
    _check_header(source, limits)
    resample = resampler(source.rate_hz, rate_hz)
    max_frames = int(limits.longest_s(source.rate_hz, source.channels) * source.rate_hz)
    frames = 0
    mono = _Growing(source, rate_hz, take)
    for block in source.blocks:
        frames += len(block)
        if frames > max_frames:
            raise _too_long(source, None, limits)
        mixed = _mixed_down(block)
        _check_samples(mixed)
        mono.append(resample(mixed, False))
    if frames == 0:
        if source.length_s == 0:
            raise EmptyAudio(f"The {source.format} file has a header and no samples.", format=source.format)
        raise UnsupportedAudio(
            f"The {source.format} file is cut short or damaged: nothing in it decodes. Encode it again and resend.",
            format=source.format,
        )
    duration_s = frames / source.rate_hz
    if duration_s < limits.min_duration_s:
        raise AudioTooShort(
            f"The audio lasts {duration_s:.3f} s; at least {limits.min_duration_s:g} s are needed.",
            duration_s=round(duration_s, 3),
            min_duration_s=limits.min_duration_s,
        )
    mono.append(resample(np.empty(0, dtype=np.float32), True))
    return Clip(mono.samples, duration_s, source.announced_s, source.rate_hz, source.channels, source.format)


class _Growing:
    """Samples that are appended; as large from the start as the source's header says, so that nothing is held twice."""

    def __init__(self, source: Source, rate_hz: int, take: Callable[[int], None]) -> None:
        expected = int((source.length_s or 0.0) * rate_hz) + _SPARE_SAMPLES
        take(expected * _SAMPLE_BYTES)
        self._room: Samples = np.empty(expected, dtype=np.float32)
        self._used, self._take = 0, take

    def append(self, samples: Samples) -> None:
        end = self._used + len(samples)
        if end > len(self._room):
            longer = end + end // 2
            self._take((longer - len(self._room)) * _SAMPLE_BYTES)
            self._room.resize(longer, refcheck=False)  # in place: large blocks are moved without a copy
        self._room[self._used : end] = samples
        self._used = end

    @property
    def samples(self) -> Samples:
        """Everything appended so far, float32 (T,)."""
        return self._room[: self._used]


def windows(samples: Samples, spec: WindowSpec, *, silent_too: bool = False) -> Windows:
    """Cut mono audio into the model's windows.

    Windows start at every hop; where the last one would leave a rest, one more ends exactly at the end, so that every
    sample is heard. Audio shorter than one window is zero-padded behind. Windows in which nothing rises above silence
    are left out: a timeline may have gaps.

    Args:
        samples: float32 (T,) at ``spec.rate_hz``.
        silent_too: none is left out.

    Raises:
        NoSpeech: every window is silent.
    """
    missing = spec.window_samples - len(samples)
    if missing > 0:
        samples = np.pad(samples, (0, missing))
    last = len(samples) - spec.window_samples
    starts = np.arange(0, last + 1, spec.hop_samples, dtype=np.int64)
    if starts[-1] != last:
        starts = np.append(starts, last)
    if silent_too:
        return Windows(samples, starts, spec.window_samples)
    loud = _loud_windows(samples, starts, spec)
    if not loud.any():
        raise NoSpeech(
            f"The audio is silent: it never rises above {_SILENCE_DBFS:g} dBFS. Check the microphone or the gain.",
            silence_dbfs=_SILENCE_DBFS,
        )
    return Windows(samples, starts[loud], spec.window_samples)


def _loud_windows(samples: Samples, starts: npt.NDArray[np.int64], spec: WindowSpec) -> npt.NDArray[np.bool_]:
    """Which windows hold at least one short frame above silence; bool (N,). A constant offset is silence."""
    frame = max(1, round(_LEVEL_FRAME_S * spec.rate_hz))
    whole = len(samples) // frame * frame
    frames = samples[:whole].reshape(-1, frame)
    # Piece by piece, because the variance makes a copy.
    pieces = [frames[i : i + _LEVEL_FRAMES_AT_ONCE].var(axis=1) for i in range(0, len(frames), _LEVEL_FRAMES_AT_ONCE)]
    loud = np.append(np.concatenate(pieces or [np.empty(0)]) > 10 ** (_SILENCE_DBFS / 10), False)
    seen = np.concatenate([[0], np.cumsum(loud)])
    first, end = starts // frame, -(-(starts + spec.window_samples) // frame)
    above: npt.NDArray[np.bool_] = seen[np.minimum(end, len(loud))] > seen[first]
    return above


def _check_header(source: Source, limits: Limits) -> None:
    if not limits.min_rate_hz <= source.rate_hz <= limits.max_rate_hz:
        raise UnsupportedAudio(
            f"The sample rate is {source.rate_hz} Hz; {limits.min_rate_hz} to {limits.max_rate_hz} Hz are read. "
            "Resample and resend.",
            rate_hz=source.rate_hz,
        )
    if not 1 <= source.channels <= limits.max_channels:
        raise UnsupportedAudio(
            f"The file has {source.channels} channels; 1 to {limits.max_channels} are read. Mix it down.",
            channels=source.channels,
        )
    if source.length_s is not None and source.length_s > limits.longest_s(source.rate_hz, source.channels):
        raise _too_long(source, source.length_s, limits)


def _too_long(source: Source, duration_s: float | None, limits: Limits) -> AudioTooLong:
    came = "over" if duration_s is None else f"{duration_s:.0f} s, over"
    most_s = limits.longest_s(source.rate_hz, source.channels)
    if most_s == limits.max_duration_s:
        told = f"{most_s:g} s. Cut it and send the parts."
    else:
        told = (
            f"{most_s:g} s, the most at {source.rate_hz} Hz with {source.channels} channels. Mix it down, resample it, "
            "or cut it and send the parts."
        )
    return AudioTooLong(f"The audio lasts {came} {told}", max_duration_s=most_s)


def _mixed_down(block: Samples) -> Samples:
    """Mean over channels, (frames, channels) -> (frames,)."""
    channels = block.shape[1]
    if channels == 1:
        return block[:, 0]
    with np.errstate(invalid="ignore"):  # opposite infinities: the check that follows finds the NaN
        # Not a matrix product: BLAS threads that spin would take the cores of every other request.
        mono: Samples = np.einsum("fc->f", block) / np.float32(channels)
    return mono


def _check_samples(mono: Samples) -> None:
    # max and min carry NaN on, so one comparison finds NaN, infinity and unscaled integers.
    peak = max(float(mono.max()), -float(mono.min()))
    if not peak <= _MAX_ABS_SAMPLE:
        what = "NaN or infinite samples" if not np.isfinite(peak) else f"samples as large as {peak:.4g}"
        raise BadSamples(f"The audio holds {what}; float samples must lie within -1 to 1. Scale and resend.")


def resampler(source_hz: int, target_hz: int) -> Callable[[Samples, bool], Samples]:
    """A function (block, last) -> block at the target rate, float32 (T,) both; keeps its state between blocks."""
    if source_hz == target_hz:
        return lambda block, _: block
    stream = soxr.ResampleStream(source_hz, target_hz, num_channels=1, dtype="float32", quality="HQ")

    def resample(block: Samples, last: bool) -> Samples:
        out: Samples = stream.resample_chunk(block, last=last)
        return out

    return resample
