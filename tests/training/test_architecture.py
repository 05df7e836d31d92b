from __future__ import annotations

from pathlib import Path

import pytest

from training.architecture import plot_architecture, stages
from training.classifier import Classifier
from training.config import TrainConfig
from training.models import MODELS


@pytest.mark.parametrize("model", sorted(set(MODELS) - {"wav2vec2"}))
def test_the_stages_of_every_family_hold_all_its_parameters(model: str) -> None:
    classifier = Classifier(TrainConfig(model=model))
    found = stages(classifier)
    assert found[0].shape == (48_000,)
    assert found[-1].shape == found[-2].shape == (8,)
    assert sum(stage.parameters for stage in found) == classifier.parameters_count


def test_stages_have_names_for_people(tmp_path: Path) -> None:
    classifier = Classifier(TrainConfig(model="residual"))
    names = [stage.name for stage in stages(classifier)]
    assert names[1:3] == ["log mel (frozen)", "each band normalised (frozen)"]
    assert "stem: Conv2d, BatchNorm2d, ReLU" in names
    assert "pool: attentive statistics" in names
    dilated = [stage.name for stage in stages(Classifier(TrainConfig(model="cnn_tdnn"))) if "dilat" in stage.name]
    assert dilated == [f"blocks {n}: dilated block, dilation {n}" for n in (1, 2, 3)]
    plot_architecture(classifier, tmp_path / "architecture.png")
    assert (tmp_path / "architecture.png").stat().st_size > 10_000
