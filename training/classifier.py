"""Front end, normalisation and network as one module, and how it is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from training.augment import PictureAugment, mix
from training.config import TrainConfig
from training.features import FEATURES
from training.metrics import clip_probabilities, negative_log_likelihood, uar
from training.models import MODELS, Blueprint
from training.models.wav2vec2 import Wav2Vec2
from training.spec import AUDIO, LABELS


class Classifier(nn.Module):
    """Waveform (B, AUDIO.window_samples) -> logits (B, classes).

    Features are normalised per band with the mean and deviation of the training part, which :meth:`fit_normalisation`
    measures once and every checkpoint carries.

    Args:
        encoder: what :attr:`encoder` was, where a checkpoint brings the weights; a pretrained encoder is loaded else.
    """

    mean: Tensor
    deviation: Tensor

    # Root mean square that windows are brought to: about that of RAVDESS's normal intensity.
    LEVEL = 0.02

    def __init__(self, config: TrainConfig, encoder: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.level = config.level
        self.front_end = FEATURES[config.features](AUDIO)
        _, bands, frames = self.front_end(torch.zeros(1, AUDIO.window_samples)).shape
        self.network = MODELS[config.model](
            Blueprint(
                bands,
                frames,
                len(LABELS),
                config.dropout,
                config.checkpoint_gradients,
                config.pretrained,
                config.freeze,
                encoder,
            )
        )
        self.register_buffer("mean", torch.zeros(bands, 1))
        self.register_buffer("deviation", torch.ones(bands, 1))

    def forward(self, waveform: Tensor) -> Tensor:
        logits: Tensor = self.network(self.features(waveform))
        return logits

    def features(self, waveform: Tensor) -> Tensor:
        """Normalised features (B, bands, frames)."""
        return (self._raw(waveform) - self.mean) / self.deviation

    def _raw(self, waveform: Tensor) -> Tensor:
        if self.level:
            power = waveform.square().mean(dim=1, keepdim=True)
            waveform = waveform * (self.LEVEL / (power + 1e-10).sqrt())
        features: Tensor = self.front_end(waveform)
        return features

    @torch.no_grad()
    def fit_normalisation(self, batches: Iterable[Tensor]) -> None:
        """Measure mean and standard deviation per band over (n, samples) batches of windows."""
        count = 0
        total, squares = (torch.zeros(len(self.mean), dtype=torch.float64) for _ in range(2))
        for windows in batches:
            features = self._raw(windows).double()
            count += features.shape[0] * features.shape[2]
            total = total + features.sum(dim=(0, 2))
            squares = squares + features.square().sum(dim=(0, 2))
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
        self.mean.copy_(mean[:, None])
        self.deviation.copy_(deviation[:, None])

    @property
    def encoder(self) -> dict[str, Any] | None:
        """The configuration of the pretrained encoder in it, if any, as JSON values."""
        return self.network.configuration if isinstance(self.network, Wav2Vec2) else None

    @property
    def parameters_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


class Probabilities(nn.Module):
    """The classifier with temperature and softmax, waveform (B, T) -> float32 (B, classes): what a graph is made from.

    Args:
        precision: of the network; the front end's powers of ten need all of float32, and so does softmax.
    """

    def __init__(
        self, classifier: Classifier, temperature: float = 1.0, precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.classifier, self.temperature, self.precision = classifier, temperature, precision
        if precision is not torch.float32:
            self.classifier = copy.deepcopy(classifier)
            self.classifier.network.to(precision)

    def forward(self, waveform: Tensor) -> Tensor:
        features = self.classifier.features(waveform).to(self.precision)
        logits: Tensor = self.classifier.network(features)
        return (logits.float() / self.temperature).softmax(dim=1)


class TrainingStep(lightning.LightningModule):
    """Cross entropy on random windows; validation by clip, as the service would answer.

    Logs ``train_loss``, ``val_loss`` (negative log-likelihood of the clip's mean probabilities), ``val_accuracy`` and
    ``val_uar`` once an epoch.
    """

    def __init__(self, config: TrainConfig, classifier: Classifier, teachers: Sequence[Classifier] = ()) -> None:
        super().__init__()
        # In a tuple and not as modules: they are no part of what is learned, averaged and saved.
        self.teachers = tuple(teachers)
        self.save_hyperparameters({"config": config.to_json()})
        self.config = config
        self.classifier = classifier
        self.picture = PictureAugment(config.augment)
        self._validated: list[tuple[np.ndarray, np.ndarray]] = []

    def on_train_epoch_start(self) -> None:
        # Crops, augmentation and dropout draw from here: seeded by the epoch, a resumed run is one that never stopped.
        # Processes that train together each draw their own.
        torch.manual_seed(self.config.seed * 100_003 + self.current_epoch + self.global_rank * 10_007)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        windows, labels = batch
        targets = self._targets(windows, labels)
        with torch.no_grad(), _exact(windows):  # the front end learns nothing
            features = self.picture(self.classifier.features(windows.float()))
            if self.config.augment.mixup:
                features, targets = mix(features, targets, self.config.augment.mixup)
        logits = self.classifier.network(features)
        loss = nn.functional.cross_entropy(logits.float(), targets, self._class_weights())
        self.log("train_loss", loss, on_epoch=True, on_step=False, batch_size=len(labels))
        return loss

    @torch.no_grad()
    def _targets(self, windows: Tensor, labels: Tensor) -> Tensor:
        """What is to be learned of each window, probabilities (B, classes): its smoothed label and its teachers' view.

        Teachers hear the same sound and see its picture whole (Hinton et al. 2015, arXiv:1503.02531, temperature 1).
        """
        even = self.config.label_smoothing
        targets = (1 - even) * nn.functional.one_hot(labels, len(LABELS)).float() + even / len(LABELS)
        if not self.teachers:
            return targets
        opinions = [_logits(teacher.to(windows.device), windows).softmax(dim=1) for teacher in self.teachers]
        share = self.config.teacher_share
        return (1 - share) * targets + share * torch.stack(opinions).mean(dim=0)

    def _class_weights(self) -> Tensor | None:
        if not self.config.class_weights:
            return None
        learned = self.trainer.datamodule.recordings["train"]  # type: ignore[attr-defined]
        drawn = [self.config.tess_share if clip.corpus == "tess" else 1.0 for clip in learned.clips]
        counts = torch.bincount(learned.labels, torch.tensor(drawn), minlength=len(LABELS)).float()
        weights = torch.where(counts > 0, counts.sum() / (counts > 0).sum() / counts, 0.0)
        return weights.to(self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        windows, owners = batch
        probabilities = _logits(self.classifier, windows).softmax(dim=1)
        self._validated.append((probabilities.cpu().numpy(), owners.cpu().numpy()))

    def on_validation_epoch_end(self) -> None:
        windows, owners = (np.concatenate(arrays) for arrays in zip(*self._validated, strict=True))
        self._validated.clear()
        labels = self.trainer.datamodule.recordings["validation"].labels.numpy()  # type: ignore[attr-defined]
        if owners[-1] + 1 < len(labels):
            return  # Lightning's short check before the first epoch
        probabilities = clip_probabilities(windows, owners, len(labels))
        predicted = probabilities.argmax(axis=1)
        self.log("val_loss", negative_log_likelihood(labels, probabilities))
        self.log("val_accuracy", float((predicted == labels).mean()))
        self.log("val_uar", uar(labels, predicted), prog_bar=True)

    def configure_optimizers(self) -> Any:
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)
        if self.config.schedule == "cosine":
            total = int(self.trainer.estimated_stepping_batches)
            cosine = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_then_cosine(step, total))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=6)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


def _exact(windows: Tensor) -> torch.autocast:
    """For front ends, whose powers of ten need all of float32 whatever precision the network has."""
    return torch.autocast(windows.device.type, enabled=False)


def _logits(classifier: Classifier, windows: Tensor) -> Tensor:
    """What a classifier says of windows as they are, float32 (B, classes)."""
    with _exact(windows):
        features = classifier.features(windows.float())
    logits: Tensor = classifier.network(features).float()
    return logits


def _warm_then_cosine(step: int, total: int) -> float:
    """Factor of the learning rate: up over a twentieth of all steps, then down to zero along a cosine."""
    warm = max(1, total // 20)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(step, total) / total))
