"""Front end, normalisation and network as one module, and how it is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.features import FEATURES
from training.metrics import clip_probabilities, uar
from training.models import MODELS
from training.spec import AUDIO, LABELS


class Classifier(nn.Module):
    """Waveform (B, AUDIO.window_samples) -> logits (B, classes).

    Features are normalised per band with the mean and deviation of the training part, which :meth:`fit_normalisation`
    measures once and every checkpoint carries.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: str, features: str, dropout: float) -> None:
        super().__init__()
        self.front_end = FEATURES[features](AUDIO)
        bands = self.front_end(torch.zeros(1, AUDIO.window_samples)).shape[1]
        self.network = MODELS[model](bands, len(LABELS), dropout)
        self.register_buffer("mean", torch.zeros(bands, 1))
        self.register_buffer("deviation", torch.ones(bands, 1))

    def forward(self, waveform: Tensor) -> Tensor:
        features = (self.front_end(waveform) - self.mean) / self.deviation
        logits: Tensor = self.network(features)
        return logits

    @torch.no_grad()
    def fit_normalisation(self, batches: Iterable[Tensor]) -> None:
        """Measure mean and standard deviation per band over (n, samples) batches of windows."""
        count = 0
        total, squares = (torch.zeros(len(self.mean), dtype=torch.float64) for _ in range(2))
        for windows in batches:
            features = self.front_end(windows).double()
            count += features.shape[0] * features.shape[2]
            total = total + features.sum(dim=(0, 2))
            squares = squares + features.square().sum(dim=(0, 2))
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
        self.mean.copy_(mean[:, None])
        self.deviation.copy_(deviation[:, None])

    @property
    def parameters_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


class TrainingStep(lightning.LightningModule):
    """Cross entropy on random windows; validation by clip, as the service would answer.

    Logs ``train_loss``, ``val_loss`` (negative log-likelihood of the clip's mean probabilities), ``val_accuracy`` and
    ``val_uar`` once an epoch.
    """

    def __init__(self, config: TrainConfig, classifier: Classifier) -> None:
        super().__init__()
        self.save_hyperparameters({"config": config.to_json()})
        self.config = config
        self.classifier = classifier
        self.loss = nn.CrossEntropyLoss()
        self._validated: list[tuple[np.ndarray, np.ndarray]] = []

    def on_train_epoch_start(self) -> None:
        # Crops and dropout draw from here: seeded by the epoch, a resumed run is the run that never stopped.
        torch.manual_seed(self.config.seed * 100_003 + self.current_epoch)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        windows, labels = batch
        loss: Tensor = self.loss(self.classifier(windows), labels)
        self.log("train_loss", loss, on_epoch=True, on_step=False, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        windows, owners = batch
        probabilities = self.classifier(windows).softmax(dim=1)
        self._validated.append((probabilities.float().cpu().numpy(), owners.cpu().numpy()))

    def on_validation_epoch_end(self) -> None:
        windows, owners = (np.concatenate(arrays) for arrays in zip(*self._validated, strict=True))
        self._validated.clear()
        labels = self.trainer.datamodule.recordings["validation"].labels.numpy()  # type: ignore[attr-defined]
        if owners[-1] + 1 < len(labels):
            return  # Lightning's short check before the first epoch
        probabilities = clip_probabilities(windows, owners, len(labels))
        truth = probabilities[np.arange(len(labels)), labels]
        predicted = probabilities.argmax(axis=1)
        self.log("val_loss", float(-np.log(np.maximum(truth, 1e-12)).mean()))
        self.log("val_accuracy", float((predicted == labels).mean()))
        self.log("val_uar", uar(labels, predicted), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=6)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}
