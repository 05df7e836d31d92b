"""The best CNN: one convolution over log-mel as over a picture, then dilated ones along time."""

from __future__ import annotations

from torch import Tensor, nn

from training.models.blocks import AttentiveStatistics, Excite
from training.models.blueprint import Blueprint


class _DilatedBlock(nn.Module):
    """A convolution along time and one across channels, excited, around a shortcut."""

    def __init__(self, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.straight = nn.Sequential(
            nn.Conv1d(channels, channels, 3, 1, dilation, dilation, bias=False),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv1d(channels, channels, 1, bias=False),
            nn.BatchNorm1d(channels),
            Excite(channels),
        )

    def forward(self, steps: Tensor) -> Tensor:
        together: Tensor = self.straight(steps) + steps
        return together.relu()


class CnnTdnn(nn.Module):
    """A 5 x 5 stem that halves both axes; bands as channels; three blocks along time; attentive statistics.

    After Thienpondt et al. 2021, arXiv:2104.02370: a picture's convolutions find the same form at any pitch, and what
    follows knows at which. A network that takes the mean over bands forgets it, and hears emotions of strangers worse.
    """

    PICTURE_CHANNELS, CHANNELS = 32, 256
    DILATIONS = (1, 2, 3)

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        few, many, dropout = self.PICTURE_CHANNELS, self.CHANNELS, plan.dropout / 3
        self.picture = nn.Sequential(
            nn.Conv2d(1, few, 5, 2, 2, bias=False),
            nn.BatchNorm2d(few),
            nn.ReLU(),
        )
        bands = -(-plan.bands // 2)
        self.join = nn.Sequential(nn.Conv1d(few * bands, many, 1, bias=False), nn.BatchNorm1d(many), nn.ReLU())
        self.blocks = nn.Sequential(*(_DilatedBlock(many, dilation, dropout) for dilation in self.DILATIONS))
        self.pool = AttentiveStatistics(many)
        self.head = nn.Sequential(nn.BatchNorm1d(2 * many), nn.Dropout(plan.dropout), nn.Linear(2 * many, plan.classes))

    def forward(self, features: Tensor) -> Tensor:
        maps = self.picture(features[:, None])  # (B, 32, bands / 2, frames / 2)
        logits: Tensor = self.head(self.pool(self.blocks(self.join(maps.flatten(1, 2)))))
        return logits
