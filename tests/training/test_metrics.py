from __future__ import annotations

import numpy as np
import pytest

from training.metrics import clip_probabilities, scores, uar
from training.spec import LABELS


def test_uar_weighs_classes_not_clips() -> None:
    labels = np.array([0] * 9 + [1])
    assert uar(labels, np.zeros(10, dtype=np.int64)) == 0.5


def test_uar_is_over_the_classes_that_occur() -> None:
    assert uar(np.array([0, 0, 1]), np.array([0, 5, 1])) == 0.75


def test_a_clip_is_the_mean_of_its_windows() -> None:
    windows = np.array([[1.0, 0.0], [0.0, 1.0], [0.2, 0.8]], dtype=np.float32)
    np.testing.assert_allclose(clip_probabilities(windows, np.array([0, 0, 1]), 2), [[0.5, 0.5], [0.2, 0.8]])


def test_perfect_answers_score_one() -> None:
    labels = np.arange(8).repeat(3)
    perfect = scores(labels, np.eye(8)[labels])
    for name in (
        "accuracy",
        "uar",
        *(f"{n}_{how}" for n in ("f1", "precision", "recall", "auc") for how in ("macro", "weighted")),
    ):
        assert perfect[name] == pytest.approx(1.0)
    assert perfect["confusion"] == (3 * np.eye(8, dtype=int)).tolist()


def test_a_class_that_does_not_occur_counts_nowhere() -> None:
    labels = np.array([0, 0, 1, 2])
    result = scores(labels, np.eye(8)[labels])
    for name in ("uar", "f1_macro", "precision_macro", "recall_macro", "auc_macro", "auc_weighted"):
        assert result[name] == 1
    assert result["per_class"][LABELS[7]] == {"precision": 0, "recall": 0, "f1": 0, "auc": None, "clips": 0}


def test_macro_recall_is_the_uar() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 7, 200), rng.dirichlet(np.ones(8), 200)
    result = scores(labels, probabilities)
    assert result["recall_macro"] == pytest.approx(result["uar"])
    low, high = result["uar_interval"]
    assert low < result["uar"] < high
