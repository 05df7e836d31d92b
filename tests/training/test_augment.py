from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from tests.sounds import voice
from training.augment import AugmentConfig, PictureAugment, augment_waveform, mix, random_crop
from training.spec import AUDIO

WAVEFORM = torch.from_numpy(voice(3.0))
OF_WAVEFORMS = ("noise", "stretch", "pitch", "shift", "gain", "room")


def test_everything_is_off_unless_asked_for() -> None:
    assert all(getattr(AugmentConfig(), field.name) == 0 for field in fields(AugmentConfig))
    assert augment_waveform(WAVEFORM, AugmentConfig(), AUDIO.rate_hz) is WAVEFORM
    features = torch.randn(2, 64, 188)
    assert PictureAugment(AugmentConfig()).train()(features) is features


@pytest.mark.parametrize("name", OF_WAVEFORMS)
def test_each_change_of_the_waveform_changes_it_as_chance_has_it(name: str) -> None:
    only: dict[str, Any] = {name: 1.0}
    config = AugmentConfig(**only)
    torch.manual_seed(1)
    first = augment_waveform(WAVEFORM, config, AUDIO.rate_hz)
    second = augment_waveform(WAVEFORM, config, AUDIO.rate_hz)
    torch.manual_seed(1)
    again = augment_waveform(WAVEFORM, config, AUDIO.rate_hz)
    assert first.dtype == torch.float32
    assert torch.isfinite(first).all()
    assert first.shape != WAVEFORM.shape or not torch.equal(first, WAVEFORM)
    assert first.shape != second.shape or not torch.equal(first, second)
    assert torch.equal(first, again)
    assert 0.9 <= len(first) / len(WAVEFORM) <= 1.12


def loudness(waveform: torch.Tensor) -> float:
    return float(20 * torch.log10(waveform.square().mean().sqrt()))


def test_noise_is_as_loud_as_is_told() -> None:
    torch.manual_seed(0)
    below = [
        loudness(WAVEFORM) - loudness(augment_waveform(WAVEFORM, AugmentConfig(noise=1.0), AUDIO.rate_hz) - WAVEFORM)
        for _ in range(20)
    ]
    assert 4 < min(below) < max(below) < 31


def test_gain_stays_within_its_range() -> None:
    torch.manual_seed(0)
    gains = [
        loudness(augment_waveform(WAVEFORM, AugmentConfig(gain=1.0), AUDIO.rate_hz)) - loudness(WAVEFORM)
        for _ in range(20)
    ]
    assert -12.1 < min(gains) < -3
    assert 3 < max(gains) < 12.1


@pytest.mark.parametrize("config", [AugmentConfig(warp=0.1), AugmentConfig(masks=2)])
def test_pictures_change_in_training_only(config: AugmentConfig) -> None:
    features = torch.randn(4, 64, 188)
    augment = PictureAugment(config)
    assert torch.equal(augment.eval()(features), features)
    torch.manual_seed(3)
    changed = augment.train()(features)
    assert changed.shape == features.shape
    assert not torch.equal(changed, features)
    torch.manual_seed(3)
    assert torch.equal(augment(features), changed)


def test_masks_blank_stripes_with_the_mean() -> None:
    features = torch.randn(8, 64, 188) + 5
    torch.manual_seed(0)
    masked = PictureAugment(AugmentConfig(masks=1)).train()(features)
    blank = masked != features
    for before, after, where in zip(features, masked, blank, strict=True):
        assert 0 < where.float().mean() < 0.3
        np.testing.assert_allclose(after[where].numpy(), float(before.mean()), atol=0.3)


def test_a_warp_of_nothing_is_no_warp() -> None:
    features = torch.randn(2, 64, 188)
    warped = PictureAugment(AugmentConfig(warp=1e-7)).train()(features)
    torch.testing.assert_close(warped, features, atol=1e-3, rtol=1e-3)


def test_mixup_mixes_features_and_targets_alike() -> None:
    torch.manual_seed(0)
    targets = torch.eye(8)
    features = targets[:, :, None].repeat(1, 1, 5)
    mixed, mixed_targets = mix(features, targets, 0.4)
    torch.testing.assert_close(mixed[:, :, 0], mixed_targets)
    torch.testing.assert_close(mixed_targets.sum(dim=1), torch.ones(8))
    assert (mixed_targets.argmax(dim=1) == torch.arange(8)).all()
    assert not torch.equal(mixed_targets, targets)


def test_a_crop_is_a_part_and_a_short_one_is_padded_behind() -> None:
    waveform = torch.arange(1, 101, dtype=torch.float32)
    crops = {int(random_crop(waveform, 90)[0]) for _ in range(100)}
    assert crops <= set(range(1, 12))
    assert len(crops) > 5
    assert random_crop(waveform, 120)[100:].abs().sum() == 0


@pytest.mark.parametrize(("name", "value"), [("noise", 1.5), ("pitch", -0.1), ("masks", 11), ("warp", -1)])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"augment.{name}"):
        AugmentConfig(**wrong)
