"""What every peer with our ONNX file does alike: decode, cut the same windows, run, answer. Nothing of `serving`."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import soundfile
import soxr

Windows = npt.NDArray[np.float32]

_MODEL = "MODEL"
"""Environment variable with the folder of the exported version."""


class Ears:
    """All of it but the network: for who has that in another process."""

    def __init__(self) -> None:
        self._folder = Path(os.environ[_MODEL])
        self._description = json.loads((self._folder / "model.json").read_text())
        metadata = self._description["metadata"]
        self.labels: list[str] = metadata["labels"]
        self._rate_hz, self._window = metadata["sample_rate_hz"], metadata["window_samples"]
        self._hop = metadata["hop_samples"]

    def windows(self, data: bytes) -> Windows:
        """An encoded file as float32 (n, samples): every hop, and one that ends with the clip."""
        samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        mono = soxr.resample(samples.mean(axis=1), rate_hz, self._rate_hz)
        mono = np.pad(mono, (0, max(0, self._window - len(mono))))
        last = len(mono) - self._window
        starts = sorted({*range(0, last + 1, self._hop), last})
        return np.stack([mono[start : start + self._window] for start in starts])

    def answer(self, probabilities: Windows) -> dict[str, Any]:
        """The mean over a clip's windows, as the service tells it."""
        clip = probabilities.mean(axis=0)
        best = int(clip.argmax())
        return {
            "emotion": self.labels[best],
            "confidence": float(clip[best]),
            "all_emotions": {label: float(p) for label, p in zip(self.labels, clip, strict=True)},
        }


class Hearing(Ears):
    """One exported version, in ONNX Runtime.

    Args:
        threads: inside one forward pass. One, where several requests are answered at a time, is the fastest.
    """

    def __init__(self, threads: int = 1) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        model = str(self._folder / self._description["file"])
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, windows: Windows) -> Windows:
        """Windows float32 (n, samples) -> probabilities float32 (n, classes)."""
        (probabilities,) = self._session.run(["probabilities"], {"waveform": windows})
        found: Windows = probabilities
        return found
