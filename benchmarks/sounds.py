"""Clips to send, made here, so that nobody needs a corpus to measure."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import cast

import av
import numpy as np
import numpy.typing as npt
import soundfile

Sound = npt.NDArray[np.float32]


def voice(seconds: float, rate_hz: int = 16_000, pitch_hz: float = 150.0, seed: int = 0) -> Sound:
    """Something voice-like, float32 (T,): gliding harmonics under syllables, a little breath, peak 0.5."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch = pitch_hz * (1 + 0.2 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / rate_hz
    harmonics = [n for n in range(1, 20) if n * pitch_hz * 1.2 < rate_hz / 2]
    tone = sum((np.sin(n * phase) / n for n in harmonics), np.zeros_like(time))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)
    sound = tone * syllables + 0.01 * rng.standard_normal(len(time))
    scaled: Sound = (0.5 * sound / max(np.abs(sound).max(), 1e-9)).astype(np.float32)
    return scaled


def wav(seconds: float = 3.0, rate_hz: int = 16_000, channels: int = 1, seed: int = 0) -> bytes:
    """The same as a 16-bit WAV file, alike on every channel."""
    return encode(np.repeat(voice(seconds, rate_hz, seed=seed)[:, None], channels, axis=1), rate_hz)


def encode(
    sound: npt.NDArray[np.floating] | npt.NDArray[np.int16], rate_hz: int, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    """An encoded file by libsndfile; sound is (T,) or (T, channels)."""
    out = io.BytesIO()
    soundfile.write(out, sound, rate_hz, format=kind, subtype=subtype)
    return out.getvalue()


def encode_av(sound: Sound, rate_hz: int, container: str, codec: str) -> bytes:
    """An encoded file by FFmpeg: ("ipod", "aac") is M4A, ("webm", "libopus") WebM, ("adts", "aac") raw AAC."""
    out = io.BytesIO()
    with av.open(out, mode="w", format=container) as file:
        stream = cast("av.AudioStream", file.add_stream(codec, rate=rate_hz, layout="mono"))
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        frame.time_base = Fraction(1, rate_hz)
        frame.pts = 0
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate_hz)
        for converted in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(converted))
        file.mux(stream.encode(None))
    return out.getvalue()
