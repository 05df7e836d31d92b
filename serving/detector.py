"""Voice activity: how probable speech is, chunk by chunk, by Silero VAD on the runtime that is there anyway.

The model and what it wants to be fed stand in ``serving/silero``. The package that publishes it requires torch to be
installed, which the model does not; so the file is here, with its checksum.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from serving.audio import Samples, resampler
from serving.errors import ArtifactError

_FOLDER = Path(__file__).parent / "silero"


@dataclass(frozen=True)
class Detector:
    """The loaded model, shared by all streams; what is one stream's own is in :class:`Listener`."""

    session: onnxruntime.InferenceSession
    rate_hz: int
    chunk_samples: int
    context_samples: int
    state_shape: tuple[int, ...]

    @staticmethod
    @functools.cache
    def load() -> Detector:
        """The one detector of a process, read when the first stream begins: most services never hear one.

        Raises:
            ArtifactError: the file is not the one whose checksum is committed.
        """
        model = (_FOLDER / "silero_vad.onnx").read_bytes()
        told = json.loads((_FOLDER / "silero_vad.json").read_text())
        if hashlib.sha256(model).hexdigest() != told["sha256"]:
            raise ArtifactError(f"{_FOLDER / 'silero_vad.onnx'}: its SHA-256 is not the one in silero_vad.json.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return Detector(
            session, told["sample_rate_hz"], told["chunk_samples"], told["context_samples"], tuple(told["state_shape"])
        )


class Listener:
    """One stream's way through the detector.

    Args:
        rate_hz: of the samples that will come.

    Attributes:
        chunk_s: length of a chunk, seconds.
    """

    def __init__(self, detector: Detector, rate_hz: int) -> None:
        self._detector = detector
        self._resample = resampler(rate_hz, detector.rate_hz)
        self._rate = np.array(detector.rate_hz, dtype=np.int64)
        self._state = np.zeros(detector.state_shape, dtype=np.float32)
        self._context: Samples = np.zeros(detector.context_samples, dtype=np.float32)
        self._left: Samples = np.empty(0, dtype=np.float32)
        self.chunk_s = detector.chunk_samples / detector.rate_hz

    def hear(self, samples: Samples) -> npt.NDArray[np.float32]:
        """Probability of speech in each chunk that the samples, float32 (T,), completed; float32 (chunks,)."""
        waiting = np.concatenate([self._left, self._resample(samples, False)])
        size = self._detector.chunk_samples
        whole = len(waiting) // size
        self._left = waiting[whole * size :]
        return np.array([self._chunk(waiting[n * size : (n + 1) * size]) for n in range(whole)], dtype=np.float32)

    def _chunk(self, chunk: Samples) -> float:
        waveform = np.concatenate([self._context, chunk])
        self._context = chunk[-len(self._context) :]
        inputs = {"input": waveform[None], "state": self._state, "sr": self._rate}
        probability, self._state = self._detector.session.run(None, inputs)
        return float(probability[0, 0])
