"""Transfer learning: a pretrained Wav2Vec 2.0 encoder, a learned mix of its layers, and a small head."""

from __future__ import annotations

import json
from typing import Any, Self

import torch
from torch import Tensor, nn

from training.models.blueprint import Blueprint

_NO_MASKS_NO_LAYERDROP: dict[str, Any] = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0}


class Wav2Vec2(nn.Module):
    """Encoder from ``transformers`` over the waveform; weighted sum of all layers, mean over time, dense head.

    The sum is that of Yang et al. 2021 (SUPERB, arXiv:2105.01051): one softmax weight per layer. Weights come by name
    or from a local folder; where a checkpoint has them, the encoder's configuration is enough; without any, a tiny
    random encoder stands in for tests. In a frozen encoder nothing is dropped in training either; one that learns keeps
    its own dropout. Masks are for ``training.augment``: the encoder's own, and its skipped layers, are off.
    """

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        # Here, because nobody else needs it and it takes seconds to import.
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        if plan.encoder:
            self.encoder = Wav2Vec2Model(Wav2Vec2Config.from_dict(plan.encoder))
        elif plan.pretrained:
            # In 32 bit, whatever it was saved in: precision is a setting of the training.
            self.encoder = Wav2Vec2Model.from_pretrained(plan.pretrained, dtype=torch.float32, **_NO_MASKS_NO_LAYERDROP)
        else:
            self.encoder = Wav2Vec2Model(
                Wav2Vec2Config(
                    hidden_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    intermediate_size=64,
                    conv_dim=(16,) * 7,
                    num_conv_pos_embeddings=16,
                    num_conv_pos_embedding_groups=4,
                    **_NO_MASKS_NO_LAYERDROP,
                )
            )
        self.frozen = plan.freeze
        if self.frozen:
            self.encoder.requires_grad_(False)
        elif plan.checkpoint_gradients:
            self.encoder.activation_checkpointing_enable()
        config = self.encoder.config
        self.mix = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        self.head = nn.Sequential(
            nn.Linear(config.hidden_size, 256), nn.ReLU(), nn.Dropout(plan.dropout), nn.Linear(256, plan.classes)
        )

    @property
    def configuration(self) -> dict[str, Any]:
        """What the encoder is built from again, as JSON values; it holds no weights and no path."""
        whole: dict[str, Any] = json.loads(self.encoder.config.to_json_string(use_diff=False))
        del whole["_name_or_path"]
        return whole

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()  # type: ignore[no-untyped-call]
        return self

    def forward(self, features: Tensor) -> Tensor:
        layers = torch.stack(self.encoder(features[:, 0], output_hidden_states=True).hidden_states)  # (L, B, steps, H)
        mixed = (self.mix.softmax(0)[:, None, None, None] * layers).sum(0)
        logits: Tensor = self.head(mixed.mean(dim=1))
        return logits
