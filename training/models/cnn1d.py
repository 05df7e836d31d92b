"""One-dimensional convolutions along averaged features, as the Keras projects on RAVDESS and TESS have them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from training.models.blueprint import Blueprint


class Cnn1d(nn.Module):
    """Four convolutions of width 5 with batch norm, ReLU and halving pools, then a dense layer: about 2.7 million.

    The features of all frames are laid one behind the other, so that one frame of means is one long row.
    """

    CHANNELS = (1, 512, 512, 256, 128)

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv1d(before, after, kernel_size=5, padding=2, bias=False),
                    nn.BatchNorm1d(after),
                    nn.ReLU(),
                    nn.MaxPool1d(2),
                    nn.Dropout(plan.dropout / 2),
                )
                for before, after in pairwise(self.CHANNELS)
            )
        )
        flat = self.blocks(torch.zeros(2, 1, plan.bands * plan.frames)).flatten(1).shape[1]
        self.head = nn.Sequential(
            nn.Linear(flat, 440), nn.ReLU(), nn.Dropout(plan.dropout), nn.Linear(440, plan.classes)
        )

    def forward(self, features: Tensor) -> Tensor:
        maps = self.blocks(features.flatten(1)[:, None])
        logits: Tensor = self.head(maps.flatten(1))
        return logits
