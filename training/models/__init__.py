"""Network families, one per file, and the table of their names.

A network maps normalised features (B, bands, frames) to logits (B, classes).
"""

from __future__ import annotations

from torch import nn

from training.models.blueprint import Blueprint
from training.models.cnn import ClassicCnn
from training.models.cnn1d import Cnn1d
from training.models.cnn_lstm import CnnLstm
from training.models.cnn_tdnn import CnnTdnn
from training.models.recurrent import Gru, Lstm, Rnn
from training.models.residual import ResidualCnn
from training.models.transformer import Transformer
from training.models.wav2vec2 import Wav2Vec2

MODELS: dict[str, type[nn.Module]] = {
    "cnn": ClassicCnn,
    "cnn1d": Cnn1d,
    "cnn_lstm": CnnLstm,
    "lstm": Lstm,
    "gru": Gru,
    "rnn": Rnn,
    "transformer": Transformer,
    "wav2vec2": Wav2Vec2,
    "residual": ResidualCnn,
    "cnn_tdnn": CnnTdnn,
}
"""Networks by the name they have on the command line; each is made from a :class:`Blueprint`."""

CLASSICAL = ("random_forest", "svm", "knn")
"""Models that scikit-learn fits at one go, in training.classical."""

USUAL_FEATURES = {
    "cnn": "mfcc",
    "cnn1d": "averaged",
    "cnn_lstm": "stacked",
    "lstm": "mfcc",
    "gru": "mfcc",
    "rnn": "mfcc",
    "transformer": "log_mel",
    "wav2vec2": "waveform",
    "residual": "log_mel",
    "cnn_tdnn": "log_mel",
}
"""What each network is usually fed."""

__all__ = ["CLASSICAL", "MODELS", "USUAL_FEATURES", "Blueprint"]
