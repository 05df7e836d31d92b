from __future__ import annotations

from collections.abc import Callable
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
from training.features import FEATURES
from training.graph import export_module
from training.spec import AUDIO, AVERAGED, CLASSIC, STACKED, FrameSpec
from training.spectrum import Frames, PowerSpectrogram

TOLERANCE_DB = 1e-3
TOLERANCE_MEAN_DB = 5e-3  # of a mean over frames, in single precision around -1131 (silence)
TOLERANCE_SHARE = 1e-4  # of what lies between 0 and 1: chroma, zero crossings, root mean square

Sound = npt.NDArray[np.float32]


def rows(y: Sound, numbers: FrameSpec) -> dict[str, npt.NDArray[np.float64]]:
    """Everything that librosa says of a window, each (bands, frames)."""
    short: dict[str, Any] = {"n_fft": numbers.fft_samples, "hop_length": numbers.hop_samples}
    framed: dict[str, Any] = {"frame_length": numbers.fft_samples, "hop_length": numbers.hop_samples}
    power = np.abs(librosa.stft(y, **short)) ** 2
    of: dict[str, Any] = {"S": power, "sr": AUDIO.rate_hz, "n_fft": numbers.fft_samples}
    mel = librosa.power_to_db(librosa.feature.melspectrogram(**of, n_mels=numbers.mel_bands))
    mfcc = librosa.feature.mfcc(S=mel, n_mfcc=numbers.mfcc)
    return {
        "mel": mel,
        "mfcc": mfcc,
        "delta": librosa.feature.delta(mfcc),
        "delta2": librosa.feature.delta(librosa.feature.delta(mfcc)),
        "chroma": librosa.feature.chroma_stft(**of, tuning=0.0),
        "zcr": librosa.feature.zero_crossing_rate(y, **framed),
        "rms": librosa.feature.rms(y=y, **framed),
    }


def stacked(y: Sound) -> npt.NDArray[np.float64]:
    of = rows(y, STACKED)
    return np.concatenate([of[k] for k in ("mfcc", "delta", "delta2", "mel", "chroma", "zcr", "rms")])


def averaged(y: Sound) -> npt.NDArray[np.float64]:
    of = rows(y, AVERAGED)
    frames = np.concatenate([of[k] for k in ("zcr", "chroma", "mfcc", "rms", "mel")])
    means: npt.NDArray[np.float64] = frames.mean(axis=1, keepdims=True)
    return means


LIBROSA: dict[str, tuple[Callable[[Sound], Any], list[tuple[int, float]]]] = {
    # (reference, [(rows, largest difference allowed)])
    "mfcc": (lambda y: rows(y, CLASSIC)["mfcc"], [(40, TOLERANCE_DB)]),
    "log_mel": (lambda y: rows(y, CLASSIC)["mel"], [(64, TOLERANCE_DB)]),
    "stacked": (stacked, [(160, TOLERANCE_DB), (14, TOLERANCE_SHARE)]),
    "averaged": (
        averaged,
        [(13, TOLERANCE_SHARE), (20, TOLERANCE_MEAN_DB), (1, TOLERANCE_SHARE), (128, TOLERANCE_MEAN_DB)],
    ),
    "waveform": (lambda y: ((y - y.mean()) / np.sqrt(y.var() + 1e-7))[None], [(1, 1e-3)]),
}


def in_onnx_runtime(module: nn.Module) -> Any:
    """The module exported and loaded, as a function of waveforms (n, samples)."""
    data = export_module(module, "features").SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda waveforms: session.run(None, {"waveform": waveforms})[0]


@pytest.fixture(scope="module", params=list(FEATURES))
def front_end(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """(the frozen front end in ONNX Runtime, librosa's own with what may differ)."""
    return in_onnx_runtime(FEATURES[request.param](AUDIO)), LIBROSA[request.param]


def assert_parity(front_end: tuple[Any, Any], windows: Sound) -> None:
    frozen, (reference, allowed) = front_end
    expected = np.stack([reference(window) for window in windows])
    found = frozen(windows)
    assert found.shape == expected.shape
    largest = np.abs(found - expected).max(axis=(0, 2))
    limits = np.concatenate([np.full(count, limit) for count, limit in allowed])
    assert (largest < limits).all(), f"rows {np.flatnonzero(largest >= limits)} differ by {largest.max():.2g}"


def test_parity_with_librosa_on_synthetic_sounds(front_end: tuple[Any, Any]) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(AUDIO.window_samples).astype(np.float32)
    step = np.repeat([0.0, 1.0], AUDIO.window_samples // 2).astype(np.float32)
    short = np.pad(voice(1.0), (0, AUDIO.window_samples - AUDIO.rate_hz))
    windows = np.stack([voice(3.0), 0.1 * noise, 1e-4 * noise, step, short, np.clip(3 * voice(3.0), -1, 1)])
    assert_parity(front_end, windows)


def test_parity_with_librosa_on_real_clips(front_end: tuple[Any, Any], shared_data: Path) -> None:
    paths = sorted(shared_data.glob("ravdess/*/*.flac"))[::40] + sorted(shared_data.glob("tess/*/*.flac"))[::100]
    assert len(paths) > 50
    clips = [audio.decode(path.read_bytes(), AUDIO.rate_hz).samples for path in paths]
    windows = np.concatenate([audio.windows(clip, AUDIO.windows)[:] for clip in clips])
    assert_parity(front_end, windows)


def test_digital_silence_is_the_floor(front_end: tuple[Any, Any]) -> None:
    silence = np.zeros((1, AUDIO.window_samples), dtype=np.float32)
    assert_parity(front_end, silence)


@pytest.mark.parametrize(("fft_samples", "hop_samples"), [(1024, 512), (1125, 375), (256, 64), (2048, 512), (90, 45)])
def test_the_spectrogram_is_that_of_librosa(fft_samples: int, hop_samples: int) -> None:
    sound = voice(1.0)
    frames, power = Frames(fft_samples, hop_samples), PowerSpectrogram(fft_samples)
    expected = np.abs(librosa.stft(sound, n_fft=fft_samples, hop_length=hop_samples)) ** 2  # (bins, frames)
    each_bin = power.columns(np.eye(fft_samples // 2 + 1))
    found = power(frames(torch.from_numpy(sound)[None]))[0] @ each_bin
    np.testing.assert_allclose(found.numpy(), expected.T, atol=1e-5 * expected.max(), rtol=1e-3)


def test_lengths_that_the_method_does_not_cover_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the hop"):
        Frames(1024, 500)
    with pytest.raises(ValueError, match="prime"):
        PowerSpectrogram(1021)


@pytest.mark.parametrize("name", list(FEATURES))
def test_a_window_does_not_depend_on_the_others_of_its_batch(name: str) -> None:
    module = FEATURES[name](AUDIO)
    loud, quiet = torch.from_numpy(voice(3.0)), torch.from_numpy(0.001 * voice(3.0, seed=1))
    together = module(torch.stack([loud, quiet]))
    assert torch.allclose(together[1], module(quiet[None])[0], atol=1e-4)
