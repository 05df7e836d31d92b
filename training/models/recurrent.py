"""The recurrent baselines: two bidirectional layers over the frames, averaged over time."""

from __future__ import annotations

from torch import Tensor, nn

from training.models.blueprint import Blueprint


class _Recurrent(nn.Module):
    """Two bidirectional layers of 128 units each way; the mean over time goes to a dense head."""

    CELL: type[nn.LSTM | nn.GRU | nn.RNN]
    UNITS = 128

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        self.layers = self.CELL(
            plan.bands, self.UNITS, num_layers=2, batch_first=True, dropout=plan.dropout, bidirectional=True
        )
        self.head = nn.Sequential(
            nn.Linear(2 * self.UNITS, 128), nn.ReLU(), nn.Dropout(plan.dropout), nn.Linear(128, plan.classes)
        )

    def forward(self, features: Tensor) -> Tensor:
        states, _ = self.layers(features.transpose(1, 2))  # (B, frames, 2 units)
        logits: Tensor = self.head(states.mean(dim=1))
        return logits


class Lstm(_Recurrent):
    """Long short-term memory."""

    CELL = nn.LSTM


class Gru(_Recurrent):
    """Gated recurrent units."""

    CELL = nn.GRU


class Rnn(_Recurrent):
    """Plain tanh units."""

    CELL = nn.RNN
