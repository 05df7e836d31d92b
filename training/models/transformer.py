"""The small transformer: four layers over mel frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.models.blueprint import Blueprint


class Transformer(nn.Module):
    """4 pre-norm layers, 8 heads, width 256; two frames to a step; sines for positions; the mean over time.

    Positions as in Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """

    positions: Tensor

    WIDTH, HEADS, LAYERS = 256, 8, 4
    STEP_FRAMES = 2

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        self.checkpoint_gradients = plan.checkpoint_gradients
        self.embed = nn.Conv1d(plan.bands, self.WIDTH, kernel_size=3, stride=self.STEP_FRAMES, padding=1)
        steps = -(-plan.frames // self.STEP_FRAMES)
        self.register_buffer("positions", _sines(steps, self.WIDTH), persistent=False)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                self.WIDTH,
                self.HEADS,
                dim_feedforward=4 * self.WIDTH,
                dropout=plan.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(self.LAYERS)
        )
        self.head = nn.Sequential(
            nn.LayerNorm(self.WIDTH), nn.Dropout(plan.dropout), nn.Linear(self.WIDTH, plan.classes)
        )

    def forward(self, features: Tensor) -> Tensor:
        steps = self.embed(features).transpose(1, 2) + self.positions
        for layer in self.layers:
            if self.checkpoint_gradients and self.training:
                steps = checkpoint(layer, steps, use_reentrant=False)
            else:
                steps = layer(steps)
        logits: Tensor = self.head(steps.mean(dim=1))
        return logits


def _sines(steps: int, width: int) -> Tensor:
    """Position encodings (steps, width)."""
    place = torch.arange(steps)[:, None]
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    table = torch.zeros(steps, width)
    table[:, 0::2], table[:, 1::2] = torch.sin(place * rate), torch.cos(place * rate)
    return table
