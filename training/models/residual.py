"""A small residual network with squeeze-and-excitation over log-mel, attentive statistics over time."""

from __future__ import annotations

from torch import Tensor, nn

from training.models.blocks import AttentiveStatistics, Excite
from training.models.blueprint import Blueprint


class MeanOfFour(nn.Module):
    """Mean of each 2 x 2 patch; at an odd edge, of what is there.

    nn.AvgPool2d(2, ceil_mode=True) says the same, but by ONNX Runtime's general kernel: a fifth of all its time.
    """

    def forward(self, maps: Tensor) -> Tensor:
        odd_bands, odd_frames = (size % 2 for size in maps.shape[2:])
        if odd_bands or odd_frames:
            maps = nn.functional.pad(maps, (0, odd_frames, 0, odd_bands), mode="replicate")
        return nn.functional.avg_pool2d(maps, 2)


class _Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, before: int, after: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.straight = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
            Excite(after),
        )
        pool = MeanOfFour() if stride == 2 else nn.Identity()
        fit = [nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after)] if before != after else []
        self.shortcut = nn.Sequential(pool, *fit)

    def forward(self, maps: Tensor) -> Tensor:
        together: Tensor = self.straight(maps) + self.shortcut(maps)
        return together.relu()


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
            blocks.append(_Block(before, after, stride, plan.dropout / 3))
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
