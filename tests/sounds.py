"""Sounds and files that the tests make for themselves; none of any corpus."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import cast

import av
import numpy as np
import numpy.typing as npt
import soundfile

from benchmarks.sounds import Sound as Sound
from benchmarks.sounds import speech as speech
from benchmarks.sounds import voice as voice


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
