"""Decoded clips in memory, and the two ways a network sees them: one random window, or all windows in turn."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import librosa
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from serving import audio
from training.augment import AugmentConfig, augment_waveform, random_crop
from training.conditions import Condition
from training.datasets import Clip
from training.graph import WindowModel
from training.progress import OnProgress, no_progress
from training.spec import AUDIO, LABELS

EVALUATION_WINDOWS = 64
"""Windows of one pass where nothing is learned."""

_SILENT_DB = 40.0  # below the loudest frame


class Recordings:
    """The waveforms of some clips, decoded once, with their labels.

    Attributes:
        clips: as given.
        waveforms: float32 (T,) each, mono at ``AUDIO.rate_hz``; without the silence at both ends where ``trim``.
        labels: int64 (clips,), index in :data:`LABELS`.
    """

    def __init__(self, clips: Sequence[Clip], on_progress: OnProgress = no_progress, *, trim: bool = False) -> None:
        self.clips = tuple(clips)
        self.waveforms: list[audio.Samples] = []
        with ThreadPoolExecutor() as pool:
            for waveform in pool.map(_decode, self.clips):
                self.waveforms.append(_trimmed(waveform) if trim else waveform)
                on_progress(len(self.waveforms), len(self.clips))
        self.labels = torch.tensor([LABELS.index(clip.label) for clip in self.clips])

    def __len__(self) -> int:
        return len(self.clips)

    def under(self, condition: Condition, seed: int) -> Recordings:
        """The same clips as they would be under a condition of recording."""
        rng = np.random.default_rng(seed)
        changed = copy.copy(self)
        changed.waveforms = [condition(waveform, rng) for waveform in self.waveforms]
        return changed

    def windows(self, index: int) -> Tensor:
        """All windows of one clip, cut as the service cuts them; float32 (n, AUDIO.window_samples)."""
        cut = audio.windows(self.waveforms[index], AUDIO.windows)
        return torch.from_numpy(cut[:])

    def window_batches(self, batch_windows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All windows of all clips in order, as (windows (n, samples), index of each one's clip (n,))."""
        pending: list[Tensor] = []
        owners: list[int] = []
        for index in range(len(self)):
            windows = self.windows(index)
            pending.append(windows)
            owners += [index] * len(windows)
            if len(owners) >= batch_windows or index + 1 == len(self):
                yield torch.cat(pending), torch.tensor(owners)
                pending, owners = [], []

    def through(
        self, model: WindowModel, on_progress: OnProgress = no_progress
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """What a model makes of all windows: (windows, columns), and the index of each one's clip (windows,).

        Args:
            on_progress: told of clips heard and clips in all.
        """
        rows, owners = [], []
        for windows, owner in self.window_batches(EVALUATION_WINDOWS):
            rows.append(model(windows.numpy()))
            owners.append(owner.numpy())
            on_progress(int(owner[-1]) + 1, len(self))
        return np.concatenate(rows), np.concatenate(owners)


def _decode(clip: Clip) -> audio.Samples:
    return audio.decode(clip.path.read_bytes(), AUDIO.rate_hz).samples


def _trimmed(waveform: audio.Samples) -> audio.Samples:
    trimmed, _ = librosa.effects.trim(waveform, top_db=_SILENT_DB)
    return np.ascontiguousarray(trimmed, dtype=np.float32)


class RandomWindows(Dataset[tuple[Tensor, Tensor]]):
    """One window per clip, from a random place and changed by chance, each time it is asked for."""

    def __init__(self, recordings: Recordings, augment: AugmentConfig) -> None:
        self.recordings, self.augment = recordings, augment

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        waveform = torch.from_numpy(self.recordings.waveforms[index])
        waveform = augment_waveform(waveform, self.augment, AUDIO.rate_hz)
        return random_crop(waveform, AUDIO.window_samples), self.recordings.labels[index]


class EpochOrder(Sampler[int]):
    """A shuffle that depends on seed and epoch alone, so that a resumed run goes on as if it had never stopped.

    Args:
        tess_share: share of TESS's clips that an epoch draws, others each time.
        part, parts: which part of the epoch, of how many equal ones; a rest that does not go round is left out.
    """

    def __init__(
        self, clips: Sequence[Clip], seed: int, tess_share: float = 1.0, part: int = 0, parts: int = 1
    ) -> None:
        self.tess = np.array([index for index, clip in enumerate(clips) if clip.corpus == "tess"], dtype=np.int64)
        self.others = np.array([index for index, clip in enumerate(clips) if clip.corpus != "tess"], dtype=np.int64)
        self.drawn = round(tess_share * len(self.tess))
        self.seed, self.epoch = seed, 0
        self.part, self.parts = part, parts

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return (len(self.others) + self.drawn) // self.parts

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        drawn = rng.permutation(self.tess)[: self.drawn] if self.drawn < len(self.tess) else self.tess
        order = np.sort(np.concatenate([self.others, drawn]))
        mine = rng.permutation(order)[self.part :: self.parts][: len(self)]
        return iter(mine.tolist())
