"""The classic: three convolution blocks over MFCC as over a picture, then two dense layers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from training.models.blocks import halving_blocks
from training.models.blueprint import Blueprint


class FixedAveragePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` written as two constant matrices, (B, C, H, W) -> (B, C, rows, columns).

    The adaptive kind has no ONNX form where the sizes do not divide. An export freezes the input size it saw.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        rows = _bins(self.rows, x.shape[2]).to(x)
        columns = _bins(self.columns, x.shape[3]).to(x)
        return torch.matmul(torch.matmul(rows, x), columns.T)


def _bins(out: int, size: int) -> Tensor:
    """Averaging matrix (out, size) with torch's bin edges: floor(i * size / out) to ceil((i + 1) * size / out)."""
    weights = np.zeros((out, size), dtype=np.float32)
    for i in range(out):
        start, end = i * size // out, -(-(i + 1) * size // out)
        weights[i, start:end] = 1 / (end - start)
    return torch.from_numpy(weights)


class ClassicCnn(nn.Module):
    """Convolutions of 64, 128 and 256 channels, each with batch norm, ReLU, 2 x 2 pooling and dropout; 4 x 4 averages;
    then 512 - 256 - classes. 2.6 million parameters at 8 classes, whatever the number of bands.
    """

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        dropout = plan.dropout
        channels = (1, 64, 128, 256)
        self.blocks = halving_blocks(channels, dropout / 2)
        self.pool = FixedAveragePool(4, 4)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * 16, 512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, plan.classes),
        )

    def forward(self, features: Tensor) -> Tensor:
        maps = self.blocks(features.unsqueeze(1))  # (B, 256, bands / 8, frames / 8)
        logits: Tensor = self.head(self.pool(maps))
        return logits
