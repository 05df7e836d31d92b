"""What several networks are built from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


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
