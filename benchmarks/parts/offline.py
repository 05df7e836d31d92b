"""What the parts cost without any server: front end, network, decoding, resampling; one thread unless it says more."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import librosa
import numpy as np
import onnx
import onnxruntime
from onnxruntime.transformers.float16 import convert_float_to_float16
from threadpoolctl import threadpool_limits
from torch import nn

from benchmarks.bench import Bench, Json
from benchmarks.sounds import Sound, encode, encode_av, voice
from serving import audio
from serving.artifact import versions
from training.features import FEATURES
from training.graph import INPUT, export_module
from training.quantise import eight_bits
from training.spec import AUDIO, CLASSIC

EXPORTED = Path(__file__).parents[2] / "exported"
_RATES_HZ = (8_000, 16_000, 22_050, 24_414, 32_000, 44_100, 48_000, 96_000)
BATCHES = (1, 2, 4, 8, 16, 32)
_CLIP_S = 3.0
_REPEATS, _LEAST, _CALIBRATION = 30, 5, 4


def _libsndfile(kind: str, subtype: str) -> Callable[[Sound, int], bytes]:
    return partial(encode, kind=kind, subtype=subtype)


def _ffmpeg(container: str, codec: str) -> Callable[[Sound, int], bytes]:
    return partial(encode_av, container=container, codec=codec)


_FORMATS: tuple[tuple[str, Callable[[Sound, int], bytes], int], ...] = (
    ("WAV PCM_16", _libsndfile("WAV", "PCM_16"), AUDIO.rate_hz),
    ("WAV FLOAT", _libsndfile("WAV", "FLOAT"), AUDIO.rate_hz),
    ("AIFF PCM_16", _libsndfile("AIFF", "PCM_16"), AUDIO.rate_hz),
    ("FLAC PCM_16", _libsndfile("FLAC", "PCM_16"), AUDIO.rate_hz),
    ("OGG VORBIS", _libsndfile("OGG", "VORBIS"), AUDIO.rate_hz),
    ("OGG OPUS", _libsndfile("OGG", "OPUS"), 48_000),
    ("MP3", _libsndfile("MP3", "MPEG_LAYER_III"), AUDIO.rate_hz),
    ("M4A AAC", _ffmpeg("ipod", "aac"), AUDIO.rate_hz),
    ("WebM OPUS", _ffmpeg("webm", "libopus"), 48_000),
)
"""Every format that the service names: name, who encodes it, at which rate."""


def measure(bench: Bench) -> Json:
    """Front end, network, decoding, resampling."""
    repeats = max(3, round(_REPEATS * bench.scale))
    found: Json = {"clip_s": _CLIP_S, "repeats": repeats}
    for name, part in (("front_end", front_end), ("network", networks), ("decode", decoding), ("resample", resampling)):
        bench.say(f"{name}, {repeats} times each")
        found[name] = part(repeats)
    return found


def front_end(repeats: int) -> Json:
    """The frozen MFCC in ONNX Runtime against ``librosa.feature.mfcc``, in turn: ms per clip, and how they differ."""
    window = voice(AUDIO.window_s, AUDIO.rate_hz)[None]
    module = FEATURES["mfcc"](AUDIO)
    _, bands, frames = module(_tensor(window)).shape
    session = _session(export_module(_Rows(module), "rows").SerializeToString(), threads=1)

    def ours() -> np.ndarray:
        found: np.ndarray = session.run(None, {INPUT: window})[0].reshape(bands, frames)
        return found

    def theirs() -> np.ndarray:
        found: np.ndarray = librosa.feature.mfcc(
            y=window[0],
            sr=AUDIO.rate_hz,
            n_mfcc=CLASSIC.mfcc,
            n_fft=CLASSIC.fft_samples,
            hop_length=CLASSIC.hop_samples,
            n_mels=CLASSIC.mel_bands,
        )
        return found

    with threadpool_limits(1):
        ours_ms, theirs_ms = _alternating([ours, theirs], repeats)
        return {
            "ours_ms": ours_ms,
            "librosa_ms": theirs_ms,
            "times_as_fast": round(theirs_ms / ours_ms, 2),
            "largest_difference": float(np.abs(ours() - theirs()).max()),
        }


def networks(repeats: int) -> list[Json]:
    """Every version in every precision: ms per window at each batch size and with one and two threads."""
    found = []
    for version in versions(EXPORTED):
        graphs = precisions(EXPORTED / version)
        for threads in (1, 2):
            sessions = {name: _session(data, threads) for name, data in graphs.items()}
            for batch in BATCHES:
                windows = np.stack([voice(AUDIO.window_s, AUDIO.rate_hz, seed=seed) for seed in range(batch)])
                runs: list[Callable[[], object]] = [_Run(session, windows) for session in sessions.values()]
                taken = _alternating(runs, max(_LEAST, repeats // (2 * batch)))
                found += [
                    {
                        "version": version,
                        "precision": name,
                        "megabytes": round(len(graphs[name]) / 1e6, 2),
                        "threads": threads,
                        "batch": batch,
                        "ms_per_window": round(took / batch, 3),
                    }
                    for name, took in zip(graphs, taken, strict=True)
                ]
    return found


def precisions(folder: Path) -> dict[str, bytes]:
    """A version's graph as it is shipped, in half precision and in eight bits, made here where it ships none.

    Eight bits are calibrated on made-up voices, which cost what real ones cost; how well they hear is not asked here.
    """
    description = json.loads((folder / "model.json").read_text())
    shipped = description.get("precisions", {})
    data = (folder / description["file"]).read_bytes()
    half = shipped.get("fp16")
    return {
        "fp32": data,
        "fp16": (folder / half["file"]).read_bytes() if half else half_precision(data),
        "int8": eight_bits(data, (voice(AUDIO.window_s, AUDIO.rate_hz, seed=n)[None] for n in range(_CALIBRATION))),
    }


def half_precision(data: bytes) -> bytes:
    """A graph in 16 bit, save for what goes in and comes out."""
    converted: bytes = convert_float_to_float16(onnx.load_from_string(data), keep_io_types=True).SerializeToString()
    return converted


def decoding(repeats: int) -> list[Json]:
    """Bytes to samples at the model's rate, per format, ms per clip."""
    found = []
    for name, encoded, rate_hz in _FORMATS:
        data = encoded(voice(_CLIP_S, rate_hz), rate_hz)
        (took,) = _alternating([partial(audio.decode, data, AUDIO.rate_hz)], repeats)
        found.append({"format": name, "rate_hz": rate_hz, "bytes": len(data), "ms": took})
    return found


def resampling(repeats: int) -> list[Json]:
    """One clip at each rate to the model's, ms."""
    found = []
    for rate_hz in _RATES_HZ:
        samples = voice(_CLIP_S, rate_hz)
        (took,) = _alternating([partial(_resampled, samples, rate_hz)], repeats)
        found.append({"rate_hz": rate_hz, "ms": took})
    return found


def _resampled(samples: audio.Samples, rate_hz: int) -> audio.Samples:
    return audio.resampler(rate_hz, AUDIO.rate_hz)(samples, True)


class _Rows(nn.Module):
    """Features (B, bands, frames) as rows (B, bands * frames)."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, waveform: Any) -> Any:
        return self.features(waveform).flatten(1)


class _Run:
    """One forward pass."""

    def __init__(self, session: onnxruntime.InferenceSession, windows: np.ndarray) -> None:
        self.session, self.windows = session, windows

    def __call__(self) -> object:
        return self.session.run(None, {INPUT: self.windows})


def _alternating(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median ms of each, taken in turn, so that a noisy moment meets all."""
    taken: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 2):
        for function, times in zip(functions, taken, strict=True):
            started = time.perf_counter()
            function()
            if turn >= 2:  # the first two warm up
                times.append(time.perf_counter() - started)
    return [round(median(times) * 1e3, 3) for times in taken]


def _session(data: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _tensor(window: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(window)
