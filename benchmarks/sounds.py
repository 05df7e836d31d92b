"""Clips to send, made here, so that nobody needs a corpus to measure."""

from __future__ import annotations

import io
import subprocess
from fractions import Fraction
from typing import cast

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Sound = npt.NDArray[np.float32]

_SENTENCES = (
    "The kids are talking by the door, and nobody has told them to come in.",
    "Dogs are sitting by the door.",
    "She said that she would be back before the evening, which was an hour ago, and I have heard nothing since.",
    "Say the word again.",
    "It was not what anybody had expected, but there it stood, in the middle of the road, and looked at us.",
)


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


def monologue(seconds: float, rate_hz: int, pitch: int) -> Sound:
    """Sentences of several lengths with pauses between them, float32 (T,), exactly so long."""
    pause = np.zeros(rate_hz, np.float32)
    said = [part for text in _SENTENCES for part in (speech(text, rate_hz, pitch), pause)]
    whole: Sound = np.resize(np.concatenate(said), round(seconds * rate_hz))
    return whole
