"""What several networks are built from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def halving_blocks(channels: Sequence[int], dropout: float) -> nn.Sequential:
    """3 x 3 convolutions from each number of channels to the next, (B, channels[0], H, W) -> (B, channels[-1], h, w).

    Each has batch norm, ReLU, a pool that halves both axes, and drops whole maps.
    """
    return nn.Sequential(
        *(
            nn.Sequential(
                nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Dropout2d(dropout),
            )
            for before, after in pairwise(channels)
        )
    )


class Excite(nn.Module):
    """Channels weighted by what the whole picture holds of them (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(8, channels // 8)
        self.weigh = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels), nn.Sigmoid())

    def forward(self, maps: Tensor) -> Tensor:
        weights: Tensor = self.weigh(maps.mean(dim=(2, 3)))
        return maps * weights[:, :, None, None]


class AttentiveStatistics(nn.Module):
    """Mean and deviation over time, each channel by its own attention (Okabe et al. 2018, arXiv:1803.10963)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.Conv1d(channels, 64, 1), nn.Tanh(), nn.Conv1d(64, channels, 1))

    def forward(self, steps: Tensor) -> Tensor:
        weights = self.attend(steps).softmax(dim=2)
        mean = (weights * steps).sum(dim=2)
        variance = (weights * steps.square()).sum(dim=2) - mean.square()
        return torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=1)
