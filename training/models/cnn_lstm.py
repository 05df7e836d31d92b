"""Convolutions over stacked features, then a bidirectional LSTM over what is left of time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.blocks import halving_blocks
from training.models.blueprint import Blueprint


class CnnLstm(nn.Module):
    """Blocks of 32, 64 and 128 channels that halve bands and frames; LSTM of 128 units each way; mean over time."""

    CHANNELS = (1, 32, 64, 128)
    UNITS = 128

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        self.blocks = halving_blocks(self.CHANNELS, plan.dropout / 2)
        maps = self.blocks(torch.zeros(2, 1, plan.bands, plan.frames))
        self.squeeze = nn.Linear(maps.shape[1] * maps.shape[2], 256)
        self.lstm = nn.LSTM(256, self.UNITS, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(
            nn.Dropout(plan.dropout),
            nn.Linear(2 * self.UNITS, 128),
            nn.ReLU(),
            nn.Dropout(plan.dropout),
            nn.Linear(128, plan.classes),
        )

    def forward(self, features: Tensor) -> Tensor:
        maps = self.blocks(features[:, None])  # (B, C, bands / 8, frames / 8)
        steps = self.squeeze(maps.flatten(1, 2).transpose(1, 2)).relu()
        states, _ = self.lstm(steps)
        logits: Tensor = self.head(states.mean(dim=1))
        return logits
