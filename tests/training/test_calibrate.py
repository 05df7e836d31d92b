from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from tests.sounds import voice
from training.calibrate import (
    calibration_error,
    fit_temperature,
    pooled_bins,
    rejection_curve,
    reliability,
)
from training.conditions import CONDITIONS
from training.metrics import clip_probabilities
from training.spec import AUDIO


def drawn(temperature: float, clips: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are that many times too large, and labels drawn from what they should have been."""
    rng = np.random.default_rng(0)
    honest = 1.5 * rng.standard_normal((clips, 8))
    labels = np.array([rng.choice(8, p=row / row.sum()) for row in np.exp(honest)])
    return temperature * honest, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again_and_heals_the_confidence(temperature: float) -> None:
    logits, labels = drawn(temperature)
    owners = np.arange(len(labels))
    found = fit_temperature(logits, owners, labels)
    assert found == pytest.approx(temperature, rel=0.1)
    assert reliability(softmax(logits / found, axis=1), labels)["ece"] < 0.03
    if temperature == 3:
        assert reliability(softmax(logits, axis=1), labels)["ece"] > 0.2


def test_what_is_fitted_is_the_mean_over_a_clips_windows() -> None:
    logits, labels = drawn(2.0, clips=1000)
    twice = np.repeat(logits, 2, axis=0) + np.random.default_rng(1).normal(0, 2, (2000, 8))
    owners = np.repeat(np.arange(1000), 2)
    found = fit_temperature(twice, owners, labels)

    def loss(temperature: float) -> float:
        probabilities = clip_probabilities(softmax(twice / temperature, axis=1), owners, 1000)
        return float(-np.log(probabilities[np.arange(1000), labels]).mean())

    assert loss(found) <= min(loss(0.9 * found), loss(1.1 * found))


def test_the_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 6 + [1] * 4)
    found = reliability(probabilities, labels)
    assert found["ece"] == pytest.approx(0.5 * 0.3 + 0.5 * 0.0)
    assert [entry["clips"] for entry in found["bins"]] == [10, 10]


@pytest.mark.parametrize("clips", [120, 4000])
def test_the_error_of_exact_confidences_is_what_chance_makes_of_so_few_clips(clips: int) -> None:
    rng = np.random.default_rng(0)
    probabilities = softmax(drawn(1.0, clips)[0], axis=1)
    errors = []
    for _ in range(200):  # labels drawn from the probabilities themselves, so that these are exact
        labels = (rng.random(clips)[:, None] > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=7)
        errors.append(reliability(probabilities, labels))
    expected = errors[0]["ece_if_calibrated"]
    assert expected == pytest.approx(np.mean([one["ece"] for one in errors]), rel=0.1)
    assert (expected > 0.06) == (clips == 120)  # a limit of 0.06 is below what 120 clips can show


def test_parts_together_are_as_one_part() -> None:
    probabilities, labels = softmax(drawn(1.0, 400)[0], axis=1), drawn(1.0, 400)[1]
    whole = reliability(probabilities, labels)
    halves = [reliability(probabilities[half], labels[half])["bins"] for half in (slice(0, 150), slice(150, 400))]
    assert [one["clips"] for one in pooled_bins(halves)] == [one["clips"] for one in whole["bins"]]
    for score in ("confidence", "accuracy"):
        together = [one[score] for one in pooled_bins(halves)]
        assert together == pytest.approx([one[score] for one in whole["bins"]])


def test_one_part_that_trusts_itself_too_little_and_one_too_far_are_honest_together() -> None:
    def bins(clips: int, accuracy: float) -> list[dict[str, Any]]:
        return [{"clips": clips, "confidence": 0.5, "accuracy": accuracy}]

    assert calibration_error(pooled_bins([bins(10, 0.6), bins(10, 0.4)])) == pytest.approx(0.0)
    assert calibration_error(pooled_bins([bins(30, 0.6), bins(10, 0.4)])) == pytest.approx(0.05)


def test_certainty_falls_into_the_last_bin() -> None:
    assert reliability(np.eye(2), np.array([0, 1]))["ece"] == 0


def test_rejecting_what_is_unsure_leaves_less_and_better_answers() -> None:
    logits, labels = drawn(1.0)
    curve = rejection_curve(softmax(logits, axis=1), labels)
    assert curve[0]["answered"] == 1
    answered = [point["answered"] for point in curve]
    assert answered == sorted(answered, reverse=True)
    assert curve[-1]["accuracy"] > curve[0]["accuracy"] + 0.2


@pytest.mark.parametrize("name", list(CONDITIONS))
def test_conditions_change_a_clip_as_their_names_say(name: str) -> None:
    clip = voice(4.0)
    changed = CONDITIONS[name](clip, np.random.default_rng(0))
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    if "noise" in name:
        snr_db = float(name.split()[-2])
        noise = changed - clip
        power = np.abs(np.fft.rfft(noise)) ** 2
        low, high = (power[len(power) // 2**n :][: len(power) // 2**n].sum() for n in (4, 2))  # octaves, two apart
        assert 10 * np.log10(high / low) == pytest.approx(0 if name.startswith("pink") else 6, abs=1)
        assert 10 * np.log10(np.mean(clip**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.2)
    elif name.startswith("cut"):
        assert len(changed) == pytest.approx(min(4, int(name.split()[2])) * AUDIO.rate_hz, abs=1)
    elif name == "telephone":
        spectrum = np.abs(np.fft.rfft(changed))
        half = len(spectrum) // 2
        assert (spectrum[half + 200 :] ** 2).sum() < 1e-4 * (spectrum**2).sum()
        assert np.corrcoef(changed, clip)[0, 1] > 0.9
    else:
        assert np.abs(changed).max() == pytest.approx(0.1 * np.abs(clip).max())
