"""What a network is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Blueprint:
    """Sizes and choices that any family may need.

    Attributes:
        bands, frames: of the features it is fed, (B, bands, frames).
        classes: logits.
        dropout: share of activations dropped before the head; families derive the rest from it.
        checkpoint_gradients: forget activations and compute them again: less memory, more time (transformers).
        pretrained: name or folder of weights to begin with (wav2vec2); None for random ones of a tiny size.
        encoder: configuration of such an encoder, whose weights a checkpoint brings: ``pretrained`` is not asked then.
        freeze: leave those weights as they are.
    """

    bands: int
    frames: int
    classes: int
    dropout: float
    checkpoint_gradients: bool = False
    pretrained: str | None = None
    freeze: bool = True
    encoder: dict[str, Any] | None = None
