from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from training.classical import ESTIMATORS, Statistics
from training.config import EvaluateConfig, TrainConfig
from training.evaluate import evaluate, load_model
from training.features import FEATURES
from training.models import CLASSICAL
from training.spec import AUDIO, LABELS
from training.train import train


def test_the_names_are_those_of_the_command_line() -> None:
    assert tuple(ESTIMATORS) == CLASSICAL


def test_statistics_are_those_of_the_bands() -> None:
    windows = 0.1 * torch.randn(2, AUDIO.window_samples)
    features = FEATURES["mfcc"](AUDIO)(windows).numpy()
    found = Statistics("mfcc")(windows).numpy()
    expected = np.concatenate([features.mean(2), features.std(2), features.min(2), features.max(2)], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def classical(settings: TrainConfig, runs: Path, **changed: Any) -> TrainConfig:
    """The same without what networks alone have."""
    return dataclasses.replace(settings, epochs=None, batch_size=32, runs=runs, **changed)


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_baseline_is_trained_and_examined_like_any_other(name: str, settings: TrainConfig, tmp_path: Path) -> None:
    run = train(classical(settings, tmp_path, model=name, features="", name=None))
    assert run.name == f"{name}-stacked-fold3-seed7"
    with pytest.raises(FileExistsError):
        train(classical(settings, tmp_path, model=name, features="", name=None))
    config, model = load_model(run)
    assert config.model == name
    probabilities = model(0.1 * np.random.default_rng(0).standard_normal((3, AUDIO.window_samples), dtype=np.float32))
    assert probabilities.shape == (3, len(LABELS))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    _, metrics = evaluate(EvaluateConfig(run=run, part="test", data=settings.data))
    # The synthetic emotions differ in pitch alone, which any of these hears better than chance.
    assert metrics["uar"] > 0.3


def test_a_graph_that_answers_otherwise_than_what_was_fitted_is_refused(
    settings: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_distance = KNeighborsClassifier(7, weights="distance")  # which skl2onnx loses
    monkeypatch.setitem(ESTIMATORS, "knn", lambda _: by_distance)
    with pytest.raises(ValueError, match="differ from scikit-learn's by"):
        train(classical(settings, tmp_path, model="knn", features="mfcc"))


def test_what_was_never_learned_has_no_probability(settings: TrainConfig, tmp_path: Path) -> None:
    run = train(
        dataclasses.replace(
            settings, epochs=None, batch_size=32, runs=tmp_path, model="knn", features="mfcc", merge_calm=True
        )
    )
    _, model = load_model(run)
    probabilities = model(np.zeros((1, AUDIO.window_samples), dtype=np.float32) + 0.01)
    assert probabilities[0, LABELS.index("calm")] == 0
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
