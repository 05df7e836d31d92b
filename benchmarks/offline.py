"""What the parts cost without any server: front end, network, decoding, resampling; one thread unless it says more."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import librosa
import numpy as np
import onnxruntime
import soundfile
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits
from torch import nn

from benchmarks.record import write
from benchmarks.sounds import voice
from serving import audio
from serving.artifact import versions
from training.features import FEATURES
from training.graph import INPUT, export_module
from training.spec import AUDIO, CLASSIC

EXPORTED = Path(__file__).parents[1] / "exported"
_FORMATS = (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"))
_RATES_HZ = (8_000, 16_000, 22_050, 44_100, 48_000, 96_000)
_BATCHES = (1, 2, 4, 8, 16, 32)
_CLIP_S = 3.0

Json = dict[str, Any]


def offline(out: Path, repeats: int) -> Json:
    """Measure everything; write offline.json, offline.md and offline.png; returns the results.

    Args:
        repeats: of each measurement, of which the median is kept.
    """
    results = {
        "clip_s": _CLIP_S,
        "repeats": repeats,
        "front_end": front_end(repeats),
        "network": networks(repeats),
        "decode": decoding(repeats),
        "resample": resampling(repeats),
    }
    write(out / "offline.json", results)
    (out / "offline.md").write_text(table(results))
    plot(results, out / "offline.png")
    return results


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
    """Every file of every version: ms per window at each batch size and with one and two threads."""
    found = []
    for version in versions(EXPORTED):
        for path in sorted((EXPORTED / version).glob("model*.onnx")):
            for threads in (1, 2):
                session = _session(path.read_bytes(), threads)
                for batch in _BATCHES:
                    windows = np.stack([voice(AUDIO.window_s, AUDIO.rate_hz, seed=seed) for seed in range(batch)])
                    (took,) = _alternating([_Run(session, windows)], max(5, repeats // batch))
                    found.append(
                        {
                            "version": version,
                            "file": path.name,
                            "megabytes": round(path.stat().st_size / 1e6, 2),
                            "threads": threads,
                            "batch": batch,
                            "ms_per_window": round(took / batch, 3),
                        }
                    )
    return found


def decoding(repeats: int) -> list[Json]:
    """Bytes to samples at the model's rate, per format, ms per clip."""
    found = []
    for kind, subtype in _FORMATS:
        rate_hz = 48_000 if subtype == "OPUS" else AUDIO.rate_hz
        out = io.BytesIO()
        soundfile.write(out, voice(_CLIP_S, rate_hz), rate_hz, format=kind, subtype=subtype)
        data = out.getvalue()
        (took,) = _alternating([partial(audio.decode, data, AUDIO.rate_hz)], repeats)
        found.append({"format": f"{kind} {subtype}", "rate_hz": rate_hz, "bytes": len(data), "ms": took})
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


def table(results: Json) -> str:
    """Markdown of everything."""
    front = results["front_end"]
    text = (
        f"Front end (40 MFCC of one 3 s window): {front['ours_ms']:.2f} ms in the graph, {front['librosa_ms']:.2f} ms "
        f"in librosa, {front['times_as_fast']:.1f} times as fast; they differ by {front['largest_difference']:.1e} at "
        "most.\n\n"
    )
    text += "| version | file | MB | threads | " + " | ".join(f"batch {batch}" for batch in _BATCHES) + " |\n"
    text += "|---|---|---|---|" + "---|" * len(_BATCHES) + "\n"
    cells = {
        (one["version"], one["file"], one["threads"], one["batch"]): one["ms_per_window"] for one in results["network"]
    }
    sizes = {(one["version"], one["file"]): one["megabytes"] for one in results["network"]}
    for version, file, threads in dict.fromkeys((key[0], key[1], key[2]) for key in cells):
        row = " | ".join(f"{cells[version, file, threads, batch]:.2f}" for batch in _BATCHES)
        text += f"| {version} | {file} | {sizes[version, file]} | {threads} | {row} |\n"
    text += "\nms per window, preprocessing included.\n\n| 3 s of | bytes | ms to decode |\n|---|---|---|\n"
    text += "".join(f"| {one['format']} | {one['bytes']} | {one['ms']:.2f} |\n" for one in results["decode"])
    text += "\n| 3 s at | ms to resample |\n|---|---|\n"
    return text + "".join(f"| {one['rate_hz']} Hz | {one['ms']:.2f} |\n" for one in results["resample"])


def plot(results: Json, path: Path) -> None:
    """Milliseconds per window against batch size on one thread, and the front end beside librosa."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    batches, fronts = figure.subplots(1, 2, width_ratios=(2, 1))
    for version, file in dict.fromkeys((one["version"], one["file"]) for one in results["network"]):
        mine = [
            one
            for one in results["network"]
            if one["threads"] == 1 and (one["version"], one["file"]) == (version, file)
        ]
        batches.plot(
            [one["batch"] for one in mine],
            [one["ms_per_window"] for one in mine],
            marker="o",
            label=f"version {version}, {file}",
        )
    batches.set(xlabel="windows of one forward pass", ylabel="ms per window, one thread", xscale="log", ylim=(0, None))
    batches.set_xticks(_BATCHES, [str(batch) for batch in _BATCHES])
    batches.legend(frameon=False)
    batches.grid(alpha=0.3)
    front = results["front_end"]
    bars = fronts.bar(["in the graph", "librosa"], [front["ours_ms"], front["librosa_ms"]])
    fronts.bar_label(bars, fmt="%.2f")
    fronts.set(title="40 MFCC of 3 s", ylabel="ms, one thread")
    figure.savefig(path, dpi=120)
