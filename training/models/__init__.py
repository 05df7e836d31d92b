"""Network families, one per file, and the table of their names.

A network maps normalised features (B, bands, frames) to logits (B, classes).
"""

from __future__ import annotations

from torch import nn

from training.models.cnn import ClassicCnn

MODELS: dict[str, type[nn.Module]] = {"cnn": ClassicCnn}
"""Networks by the name they have on the command line; each is made from (bands, classes, dropout)."""
