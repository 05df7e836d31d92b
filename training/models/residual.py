"""A small residual network with squeeze-and-excitation over log-mel, attentive statistics over time."""

from __future__ import annotations

from torch import Tensor, nn

from training.models.blocks import AttentiveStatistics, ResidualBlock
from training.models.blueprint import Blueprint


class ResidualCnn(nn.Module):
    """A 5 x 5 stem that halves both axes, four blocks, the mean over bands, attentive statistics over time."""

    CHANNELS = (32, 64, 96, 128)
    STRIDES = (2, 2, 2, 1)

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        first = self.CHANNELS[0]
        self.stem = nn.Sequential(nn.Conv2d(1, first, 5, 2, 2, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        blocks, before = [], first
        for after, stride in zip(self.CHANNELS, self.STRIDES, strict=True):
            blocks.append(ResidualBlock(before, after, stride, plan.dropout / 3))
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.pool = AttentiveStatistics(before)
        self.head = nn.Sequential(
            nn.BatchNorm1d(2 * before), nn.Dropout(plan.dropout), nn.Linear(2 * before, plan.classes)
        )

    def forward(self, features: Tensor) -> Tensor:
        maps = self.blocks(self.stem(features[:, None]))
        logits: Tensor = self.head(self.pool(maps.mean(dim=2)))
        return logits
