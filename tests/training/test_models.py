from __future__ import annotations

import pytest
import torch
from torch import nn

from training.classifier import Classifier
from training.models import MODELS
from training.models.cnn import FixedAveragePool
from training.spec import AUDIO, LABELS


def test_the_classic_has_its_2_6_million_parameters() -> None:
    assert Classifier("cnn", "mfcc", 0.2).parameters_count == pytest.approx(2.6e6, rel=0.01)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("features", ["mfcc", "log_mel"])
def test_every_network_maps_windows_to_logits(name: str, features: str) -> None:
    classifier = Classifier(name, features, 0.2).eval()
    assert classifier(torch.randn(3, AUDIO.window_samples)).shape == (3, len(LABELS))


@pytest.mark.parametrize(("height", "width"), [(5, 11), (4, 4), (8, 24), (7, 13)])
def test_fixed_pooling_is_adaptive_pooling(height: int, width: int) -> None:
    maps = torch.randn(2, 3, height, width)
    expected = nn.AdaptiveAvgPool2d((4, 4))(maps)
    torch.testing.assert_close(FixedAveragePool(4, 4)(maps), expected, atol=1e-6, rtol=1e-5)


def test_normalisation_makes_each_band_zero_mean_and_unit_deviation() -> None:
    classifier = Classifier("cnn", "mfcc", 0.2)
    batches = [0.1 * torch.randn(4, AUDIO.window_samples) for _ in range(5)]
    classifier.fit_normalisation(batches)
    features = (classifier.front_end(torch.cat(batches)) - classifier.mean) / classifier.deviation
    torch.testing.assert_close(features.mean(dim=(0, 2)), torch.zeros(AUDIO.mfcc), atol=1e-3, rtol=0)
    torch.testing.assert_close(features.std(dim=(0, 2)), torch.ones(AUDIO.mfcc), atol=1e-2, rtol=0)
