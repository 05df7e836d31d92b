from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from training.classifier import Classifier
from training.config import TrainConfig
from training.export import export_graph
from training.graph import onnx_model
from training.models import MODELS, USUAL_FEATURES
from training.models.cnn import FixedAveragePool
from training.models.residual import MeanOfFour
from training.refusals import ONLY_OF
from training.spec import AUDIO, LABELS

PARAMETERS = {"cnn": 2.6e6, "cnn1d": 2.7e6, "transformer": 3.2e6, "residual": 0.52e6, "cnn_tdnn": 0.70e6}


def make(model: str, **settings: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(TrainConfig(model=model, **settings))


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_sizes_are_those_that_are_told(name: str) -> None:
    assert make(name).parameters_count == pytest.approx(PARAMETERS[name], rel=0.02)


def test_every_model_has_usual_features() -> None:
    assert MODELS.keys() == USUAL_FEATURES.keys()


@pytest.mark.parametrize("name", list(MODELS))
def test_every_network_maps_windows_to_logits_and_learns_from_all_it_should(name: str) -> None:
    classifier = make(name)
    logits = classifier(0.1 * torch.randn(3, AUDIO.window_samples))
    assert logits.shape == (3, len(LABELS))
    logits.square().sum().backward()
    for key, parameter in classifier.network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key


# The other two recurrent ones are one class with `lstm`, and the exporter takes a minute to unroll them.
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"rnn", "gru"}))
def test_every_network_exports_with_its_front_end(name: str) -> None:
    classifier = make(name).eval()
    session = onnxruntime.InferenceSession(export_graph(classifier).SerializeToString())
    windows = 0.1 * torch.randn(3, AUDIO.window_samples)
    with torch.inference_mode():
        expected = classifier(windows).softmax(dim=1).numpy()
    (found,) = session.run(None, {"waveform": windows.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["transformer", "lstm", "cnn_tdnn", "wav2vec2"])
def test_half_precision_answers_as_the_network_does(name: str) -> None:
    classifier = make(name).eval()
    windows = 0.1 * torch.randn(3, AUDIO.window_samples)
    half = onnx_model(export_graph(classifier, precision=torch.float16).SerializeToString(), half=True)
    with torch.inference_mode():
        expected = classifier(windows).softmax(dim=1).numpy()
    np.testing.assert_allclose(half(windows.numpy()), expected, atol=0.02)


@pytest.mark.parametrize("features", ["mfcc", "log_mel", "stacked"])
@pytest.mark.parametrize("name", ["cnn", "residual", "lstm", "transformer"])
def test_networks_take_any_picture(name: str, features: str) -> None:
    assert make(name, features=features)(torch.randn(2, AUDIO.window_samples)).shape == (2, len(LABELS))


@pytest.mark.parametrize("name", ONLY_OF["checkpoint_gradients"])
def test_forgetting_activations_changes_no_gradient(name: str) -> None:
    windows = 0.1 * torch.randn(2, AUDIO.window_samples)
    learned: dict[str, Any] = {"freeze": False} if name == "wav2vec2" else {}
    gradients = []
    for forget in (False, True):
        classifier = make(name, checkpoint_gradients=forget, dropout=0.0, **learned).train()
        torch.manual_seed(1)  # an encoder has its own dropout
        classifier(windows).square().sum().backward()
        gradients.append([p.grad for p in classifier.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_frozen_encoder_learns_nothing_and_another_does() -> None:
    for freeze in (True, False):
        classifier = make("wav2vec2", freeze=freeze)
        classifier(0.1 * torch.randn(2, AUDIO.window_samples)).sum().backward()
        encoder: Any = classifier.network.encoder
        learned = any(parameter.grad is not None for parameter in encoder.parameters())
        assert learned is not freeze


@pytest.mark.parametrize("freeze", [True, False])
def test_in_a_frozen_encoder_nothing_is_dropped(freeze: bool, tmp_path: Any) -> None:
    encoder: Any = make("wav2vec2").network.encoder
    encoder.config.update({"mask_time_prob": 0.5, "layerdrop": 0.5})  # as pretrained ones have it, but more
    encoder.save_pretrained(tmp_path)
    classifier = make("wav2vec2", pretrained=str(tmp_path), freeze=freeze).train()
    encoder = classifier.network.encoder
    assert encoder.training is not freeze
    assert encoder.config.mask_time_prob == encoder.config.layerdrop == 0
    windows = 0.1 * torch.randn(2, AUDIO.window_samples)
    first, second = (encoder(windows).last_hidden_state for _ in range(2))
    assert torch.equal(first, second) is freeze


@pytest.mark.parametrize("saved_in", [torch.float32, torch.float16])
def test_an_encoder_comes_from_a_folder(saved_in: torch.dtype, tmp_path: Any) -> None:
    first = make("wav2vec2")
    encoder: Any = first.network.encoder
    encoder.to(saved_in).save_pretrained(tmp_path)
    again: Any = make("wav2vec2", pretrained=str(tmp_path)).network.encoder
    for one, other in zip(encoder.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.float(), other)


def test_levelled_windows_are_heard_alike_however_loud() -> None:
    windows = 0.1 * torch.randn(2, AUDIO.window_samples)
    levelled = make("cnn", level=True).eval()
    torch.testing.assert_close(levelled(windows), levelled(windows / 50), atol=1e-3, rtol=1e-3)
    plain = make("cnn").eval()
    assert not torch.allclose(plain(windows), plain(windows / 50), atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(5, 11), (4, 4), (8, 24), (7, 13)])
def test_fixed_pooling_is_adaptive_pooling(height: int, width: int) -> None:
    maps = torch.randn(2, 3, height, width)
    expected = nn.AdaptiveAvgPool2d((4, 4))(maps)
    torch.testing.assert_close(FixedAveragePool(4, 4)(maps), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 47), (33, 24), (7, 5), (2, 2)])
def test_the_mean_of_four_is_that_of_torch_s_pooling_at_odd_edges_too(height: int, width: int) -> None:
    maps = torch.randn(2, 3, height, width)
    torch.testing.assert_close(MeanOfFour()(maps), nn.AvgPool2d(2, ceil_mode=True)(maps))


@pytest.mark.parametrize("settings", [{}, {"level": True}, {"features": "stacked"}])
def test_normalisation_makes_each_band_zero_mean_and_unit_deviation(settings: dict[str, Any]) -> None:
    classifier = make("cnn", **settings)
    batches = [0.1 * torch.randn(4, AUDIO.window_samples) for _ in range(5)]
    classifier.fit_normalisation(batches)
    features = classifier.features(torch.cat(batches))
    bands = features.shape[1]
    torch.testing.assert_close(features.mean(dim=(0, 2)), torch.zeros(bands), atol=1e-3, rtol=0)
    torch.testing.assert_close(features.std(dim=(0, 2)), torch.ones(bands), atol=1e-2, rtol=0)


def test_settings_survive_their_json() -> None:
    config = TrainConfig(model="residual", label_smoothing=0.1, corpora=("ravdess", "tess"))
    assert TrainConfig.from_json(config.to_json()) == config
    assert dataclasses.replace(config, seed=1) != config
