"""Decoded clips in memory, and the two ways a network sees them: one random window, or all windows in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from serving import audio
from training.augment import random_crop
from training.datasets import Clip
from training.progress import OnProgress, no_progress
from training.spec import AUDIO, LABELS


class Recordings:
    """The waveforms of some clips, decoded once, with their labels.

    Attributes:
        clips: as given.
        waveforms: float32 (T,) each, mono at ``AUDIO.rate_hz``.
        labels: int64 (clips,), index in :data:`LABELS`.
    """

    def __init__(self, clips: Sequence[Clip], on_progress: OnProgress = no_progress) -> None:
        self.clips = tuple(clips)
        self.waveforms: list[audio.Samples] = []
        with ThreadPoolExecutor() as pool:
            for waveform in pool.map(_decode, self.clips):
                self.waveforms.append(waveform)
                on_progress(len(self.waveforms), len(self.clips))
        self.labels = torch.tensor([LABELS.index(clip.label) for clip in self.clips])

    def __len__(self) -> int:
        return len(self.clips)

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


def _decode(clip: Clip) -> audio.Samples:
    return audio.decode(clip.path.read_bytes(), AUDIO.rate_hz).samples


class RandomWindows(Dataset[tuple[Tensor, Tensor]]):
    """One window per clip, from a random place each time it is asked for."""

    def __init__(self, recordings: Recordings) -> None:
        self.recordings = recordings

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        waveform = torch.from_numpy(self.recordings.waveforms[index])
        return random_crop(waveform, AUDIO.window_samples), self.recordings.labels[index]


class EpochOrder(Sampler[int]):
    """A shuffle that depends on seed and epoch alone, so that a resumed run goes on as if it had never stopped."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        return iter(order.tolist())
