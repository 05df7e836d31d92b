"""Live frames: from a microphone, or from a file at its own speed."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.audio import Limits, Samples, decode
from serving.errors import UsageError, missing
from serving.formats import open_source

_FRAME_S = 0.1
_MAX_RATE_HZ = 48 * 1000  # of live audio
_WAITING = 100  # frames of the microphone that wait for a slow network: ten seconds
_LONGEST_S = 24 * 3600.0


def recording(file: Path) -> tuple[Iterator[Samples], int]:
    """Frames of a file, mono float32 (T,), each when it would have been recorded; and their rate in Hz.

    Raises:
        OSError: the file cannot be read.
        RequestError: it is no audio.
    """
    data = file.read_bytes()
    with contextlib.closing(open_source(data)) as source:
        rate_hz = min(source.rate_hz, _MAX_RATE_HZ)
    return _paced(decode(data, rate_hz, Limits(max_duration_s=_LONGEST_S)).samples, rate_hz), rate_hz


def _paced(samples: Samples, rate_hz: int) -> Iterator[Samples]:
    size = round(_FRAME_S * rate_hz)
    started = time.monotonic()
    for start in range(0, len(samples), size):
        frame = samples[start : start + size]
        # A frame is there when its last sample is.
        time.sleep(max(0.0, started + (start + len(frame)) / rate_hz - time.monotonic()))
        yield frame


def microphone() -> tuple[Iterator[bytes], int]:
    """Frames of the default microphone, 16-bit mono, and their rate in Hz.

    Raises:
        UsageError: sounddevice or PortAudio is not installed, or there is no microphone.
    """
    try:
        import sounddevice
    except ImportError:
        raise missing("sounddevice", "The microphone") from None
    except OSError as error:
        raise UsageError(f"The microphone needs PortAudio, such as Debian's libportaudio2: {error}.") from error
    try:
        rate_hz = min(round(sounddevice.query_devices(kind="input")["default_samplerate"]), _MAX_RATE_HZ)
        sounddevice.check_input_settings(channels=1, dtype="int16", samplerate=rate_hz)
    except (ValueError, sounddevice.PortAudioError) as error:
        raise UsageError(f"There is no microphone that can be used: {error}. A file can be given.") from error
    return _recorded(sounddevice, rate_hz), rate_hz


def _recorded(sounddevice: Any, rate_hz: int) -> Iterator[bytes]:
    frames: queue.Queue[bytes] = queue.Queue(_WAITING)

    def take(samples: Any, *_: Any) -> None:
        """In PortAudio's own thread, which must not wait: what nobody fetches is lost."""
        if not frames.full():
            frames.put_nowait(bytes(samples))

    size = round(_FRAME_S * rate_hz)
    with sounddevice.RawInputStream(rate_hz, blocksize=size, channels=1, dtype="int16", callback=take):
        while True:
            yield frames.get()
