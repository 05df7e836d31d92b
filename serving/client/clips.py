"""What a clip may be given as, and as what it is sent: always an encoded file, so that every way hears the same."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
ClipLike: TypeAlias = str | Path | bytes | tuple[Array, int]
"""Path of an audio file, its bytes, or (samples, rate in Hz): (T,) or (T, channels), float or integer."""

# Nothing is lost on the way: floats stay floats, integers keep their width.
_SUBTYPES = {"f": "FLOAT", "i2": "PCM_16", "i4": "PCM_32"}
_MAX_CHANNELS = 8


def read(clip: ClipLike) -> tuple[bytes, str | None]:
    """The encoded file and its name, None where there is none.

    Raises:
        OSError: the file cannot be read.
        TypeError, ValueError: the samples are of a kind or shape that is no audio.
    """
    if isinstance(clip, bytes):
        return clip, None
    if isinstance(clip, tuple):
        return wav(*clip), None
    path = Path(clip)
    return path.read_bytes(), path.name


def wav(samples: Array, rate_hz: int) -> bytes:
    """A WAV file of samples (T,) or (T, channels), float within -1 to 1, int16 or int32.

    Raises:
        TypeError, ValueError: they are of another kind or shape.
    """
    import soundfile  # dear, and only who sends samples needs it

    samples = np.asarray(samples)
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)  # soundfile takes every byte order for ours
    kind = samples.dtype.kind if samples.dtype.kind == "f" else samples.dtype.str[1:]
    if kind not in _SUBTYPES:
        raise TypeError(f"Samples are of {samples.dtype}; float, int16 and int32 are audio. Convert them.")
    if not (samples.ndim == 1 or (samples.ndim == 2 and samples.shape[1] <= _MAX_CHANNELS)):
        raise ValueError(
            f"Samples have the shape {samples.shape}; (T,) and (T, channels), channels up to {_MAX_CHANNELS}, are "
            "audio. Transpose what has its channels first."
        )
    out = io.BytesIO()
    soundfile.write(out, samples, int(rate_hz), format="WAV", subtype=_SUBTYPES[kind])
    return out.getvalue()


def pcm(frame: bytes | Array) -> bytes:
    """A live frame, mono (T,), as 16-bit little-endian samples. Bytes are taken as such; floats are within -1 to 1.

    Raises:
        TypeError, ValueError: it is of another kind or shape.
    """
    if isinstance(frame, bytes):
        return frame
    frame = np.asarray(frame)
    if frame.ndim != 1:
        raise ValueError(f"A frame has the shape {frame.shape}; live audio is mono, (T,).")
    if frame.dtype.kind == "f":
        frame = np.round(np.clip(frame, -1, 1) * np.iinfo(np.int16).max)
    elif frame.dtype.newbyteorder("=") != np.int16:
        raise TypeError(f"A frame is of {frame.dtype}; float and int16 are live audio.")
    return frame.astype("<i2").tobytes()
