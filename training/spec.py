"""The only owner of label names, corpus codes and audio numbers.

They leave this package inside an exported version's metadata and by no other way.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from serving.audio import WindowSpec

SCHEMA_VERSION = 1
"""Version of the exported artifact's layout: tensors, metadata keys and their meaning."""

LABELS = ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")
"""Class names in the order of the network's outputs."""

RAVDESS_EMOTIONS = MappingProxyType(
    {
        "01": "neutral",
        "02": "calm",
        "03": "happy",
        "04": "sad",
        "05": "angry",
        "06": "fearful",
        "07": "disgust",
        "08": "surprised",
    }
)
"""Third field of a RAVDESS file name (Livingstone & Russo 2018, doi:10.1371/journal.pone.0196391)."""

RAVDESS_SONG_EMOTIONS = ("01", "02", "03", "04", "05", "06")
"""The emotions that were sung; disgust and surprise were only spoken."""

RAVDESS_ACTORS = tuple(f"{actor:02d}" for actor in range(1, 25))
RAVDESS_SONGLESS_ACTOR = "18"
"""The one actor of whom no song was published."""

TESS_EMOTIONS = MappingProxyType(
    {
        "angry": "angry",
        "disgust": "disgust",
        "fear": "fearful",
        "happy": "happy",
        "neutral": "neutral",
        "ps": "surprised",
        "sad": "sad",
    }
)
"""Last part of a TESS file name (doi:10.5683/SP2/E8H2MF); "ps" is pleasant surprise."""

TESS_SPEAKERS = ("OAF", "YAF")
"""The older and the younger actress."""

ACTOR_FOLDS = (
    ("02", "05", "14", "15", "16"),
    ("03", "06", "07", "13", "18"),
    ("10", "11", "12", "19", "20"),
    ("08", "17", "21", "23", "24"),
    ("01", "04", "09", "22"),
)
"""The published five subject-wise folds of RAVDESS (Luna-Jimenez et al. 2021, doi:10.3390/s21227665)."""

FIRST_ACTORS = tuple(f"{actor:02}" for actor in range(1, 21))
"""Those of RAVDESS whom the committed results were made with: all but 21 to 24."""

SPEECH_CLIPS = 60
"""Of each actor of RAVDESS (doi:10.1371/journal.pone.0196391)."""


@dataclass(frozen=True)
class FrameSpec:
    """Numbers of one front end: samples per frame and hop, mel bands, cepstral coefficients."""

    fft_samples: int
    hop_samples: int
    mel_bands: int
    mfcc: int = 40


CLASSIC = FrameSpec(fft_samples=1024, hop_samples=512, mel_bands=64)
"""64 mel bands, 40 MFCC of them, every 32 ms: the classic recipe on these corpora."""

STACKED = FrameSpec(fft_samples=1125, hop_samples=375, mel_bands=40)
"""128 frames in 3 s, 70 ms each."""

AVERAGED = FrameSpec(fft_samples=2048, hop_samples=512, mel_bands=128, mfcc=20)
"""librosa's own defaults, which the projects leave as they are."""


@dataclass(frozen=True)
class AudioSpec:
    """What every model hears: 3 s hold the spoken part of nearly every clip."""

    rate_hz: int = 16_000
    window_s: float = 3.0
    window_hop_s: float = 1.5

    @property
    def window_samples(self) -> int:
        return round(self.window_s * self.rate_hz)

    @property
    def window_hop_samples(self) -> int:
        return round(self.window_hop_s * self.rate_hz)

    @property
    def windows(self) -> WindowSpec:
        """How clips are cut, in the terms of ``serving.audio``."""
        return WindowSpec(self.rate_hz, self.window_samples, self.window_hop_samples)


AUDIO = AudioSpec()
