from __future__ import annotations

from pathlib import Path
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from torch import nn

from serving import audio
from tests.sounds import voice
from training.features import FEATURES, PowerSpectrogram
from training.spec import AUDIO

LIBROSA: dict[str, Any] = {
    "mfcc": lambda y: librosa.feature.mfcc(
        y=y,
        sr=AUDIO.rate_hz,
        n_mfcc=AUDIO.mfcc,
        n_fft=AUDIO.fft_samples,
        hop_length=AUDIO.frame_hop_samples,
        n_mels=AUDIO.mel_bands,
    ),
    "log_mel": lambda y: librosa.power_to_db(
        librosa.feature.melspectrogram(
            y=y,
            sr=AUDIO.rate_hz,
            n_fft=AUDIO.fft_samples,
            hop_length=AUDIO.frame_hop_samples,
            n_mels=AUDIO.mel_bands,
        )
    ),
}
TOLERANCE_DB = 1e-3


def in_onnx_runtime(module: nn.Module) -> Any:
    """The module exported and loaded, as a function of waveforms (n, samples)."""
    program = torch.onnx.export(
        module.eval(),
        (torch.zeros(2, AUDIO.window_samples),),
        input_names=["waveform"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    data = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda waveforms: session.run(None, {"waveform": waveforms})[0]


@pytest.fixture(scope="module", params=list(FEATURES))
def front_end(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """(the frozen front end in ONNX Runtime, librosa's own)."""
    return in_onnx_runtime(FEATURES[request.param](AUDIO)), LIBROSA[request.param]


def largest_difference(front_end: tuple[Any, Any], windows: npt.NDArray[np.float32]) -> float:
    frozen, reference = front_end
    return float(np.abs(frozen(windows) - np.stack([reference(window) for window in windows])).max())


def test_parity_with_librosa_on_synthetic_sounds(front_end: tuple[Any, Any]) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(AUDIO.window_samples).astype(np.float32)
    step = np.repeat([0.0, 1.0], AUDIO.window_samples // 2).astype(np.float32)
    short = np.pad(voice(1.0), (0, AUDIO.window_samples - AUDIO.rate_hz))
    windows = np.stack([voice(3.0), 0.1 * noise, 1e-4 * noise, step, short, np.clip(3 * voice(3.0), -1, 1)])
    assert largest_difference(front_end, windows) < TOLERANCE_DB


def test_parity_with_librosa_on_real_clips(front_end: tuple[Any, Any], shared_data: Path) -> None:
    paths = sorted(shared_data.glob("ravdess/*/*.flac"))[::40] + sorted(shared_data.glob("tess/*/*.flac"))[::100]
    assert len(paths) > 50
    clips = [audio.decode(path.read_bytes(), AUDIO.rate_hz).samples for path in paths]
    windows = np.concatenate([audio.windows(clip, AUDIO.windows)[:] for clip in clips])
    assert largest_difference(front_end, windows) < TOLERANCE_DB


def test_digital_silence_is_the_floor(front_end: tuple[Any, Any]) -> None:
    silence = np.zeros((1, AUDIO.window_samples), dtype=np.float32)
    assert largest_difference(front_end, silence) < TOLERANCE_DB


@pytest.mark.parametrize(("fft_samples", "hop_samples"), [(1024, 512), (1024, 256), (256, 64), (4096, 4096)])
def test_the_spectrogram_is_that_of_librosa(fft_samples: int, hop_samples: int) -> None:
    sound = voice(1.0)
    frozen = PowerSpectrogram(fft_samples, hop_samples)
    expected = np.abs(librosa.stft(sound, n_fft=fft_samples, hop_length=hop_samples)) ** 2  # (bins, frames)
    power = frozen(torch.from_numpy(sound)[None])[0].numpy()
    assert set(frozen.bin_of) == set(range(fft_samples // 2 + 1))
    assert power.shape == (expected.shape[1], len(frozen.bin_of))
    np.testing.assert_allclose(power, expected[frozen.bin_of].T, atol=1e-4 * expected.max(), rtol=1e-3)


@pytest.mark.parametrize(("fft_samples", "hop_samples"), [(1000, 500), (512, 256), (1024, 500), (81, 27)])
def test_lengths_that_the_method_does_not_cover_are_refused(fft_samples: int, hop_samples: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        PowerSpectrogram(fft_samples, hop_samples)


@pytest.mark.parametrize("name", list(FEATURES))
def test_a_window_does_not_depend_on_the_others_of_its_batch(name: str) -> None:
    module = FEATURES[name](AUDIO)
    loud, quiet = torch.from_numpy(voice(3.0)), torch.from_numpy(0.001 * voice(3.0, seed=1))
    together = module(torch.stack([loud, quiet]))
    assert torch.allclose(together[1], module(quiet[None])[0], atol=1e-4)
