"""What is sent: the clips of ../shared/samples; where that is missing, made-up ones of the same lengths and rates."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from benchmarks.sounds import wav

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"

# (seconds, Hz, channels) of the samples: RAVDESS and TESS as they are published.
_LIKE = (
    (3.10, 48_000, 1), (4.24, 48_000, 2), (3.14, 48_000, 1), (3.74, 48_000, 1), (4.07, 48_000, 1), (3.44, 48_000, 1),
    (3.90, 48_000, 1), (3.50, 48_000, 1), (1.55, 24_414, 1), (1.57, 24_414, 1), (2.36, 24_414, 1), (1.66, 24_414, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """One encoded file."""

    name: str
    data: bytes

    def to_json(self) -> dict[str, Any]:
        """What it is, so that another can see whether they sent the same."""
        info = soundfile.info(io.BytesIO(self.data))
        return {
            "name": self.name,
            "seconds": round(info.duration, 3),
            "rate_hz": info.samplerate,
            "channels": info.channels,
            "bytes": len(self.data),
            "sha256": hashlib.sha256(self.data).hexdigest(),
        }


def clips(folder: Path = SAMPLES) -> list[Clip]:
    """The clips of a folder; made-up ones where it has none."""
    found = sorted(folder.glob("*.wav")) if folder.is_dir() else []
    return [Clip(path.name, path.read_bytes()) for path in found] or [
        Clip(f"made-{number}.wav", wav(seconds, rate_hz, channels, seed=number))
        for number, (seconds, rate_hz, channels) in enumerate(_LIKE)
    ]
