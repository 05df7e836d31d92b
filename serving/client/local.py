"""A version without a server: one folder or one file, one function."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from serving import audio
from serving.aggregate import prediction
from serving.artifact import Artifact
from serving.client.answers import Prediction
from serving.client.clips import ClipLike, read
from serving.runtime import choose_runtime
from serving.schemas import Timing, milliseconds
from serving.session import Session, alone


class Local:
    """Hears clips with one exported version in this process; safe to call from several threads at once.

    Args:
        artifact: the verified version.
        limits: what audio is accepted.

    Raises:
        ArtifactError: the version does not run.
    """

    def __init__(self, artifact: Artifact, limits: audio.Limits | None = None) -> None:
        self._session, self._limits = Session(artifact, choose_runtime("auto", 0, 0)), limits or audio.Limits()

    @classmethod
    def load(cls, path: Path, limits: audio.Limits | None = None) -> Local:
        """From an exported version's folder or its ONNX file; see :func:`serving.client.load`."""
        return cls(alone(path) if path.suffix == ".onnx" else Artifact.load(path), limits)

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions it knows."""
        return self._session.metadata.labels

    def __call__(self, clip: ClipLike, min_confidence: float = 0.0) -> Prediction:
        """The answer to one clip, the same that the service gives.

        Args:
            clip: path of an audio file, its bytes, or (samples, rate in Hz).
            min_confidence: below it no emotion is named.

        Raises:
            OSError: the file cannot be read.
            TypeError, ValueError: the samples are of a kind or shape that is no audio.
            RequestError: the audio is refused; see ``audio.decode`` and ``audio.windows``.
        """
        data, name = read(clip)
        started = time.perf_counter()
        metadata = self._session.metadata
        decoded = audio.decode(data, metadata.windows.rate_hz, self._limits)
        windows = audio.windows(decoded.samples, metadata.windows)
        ready = time.perf_counter()
        size = self._session.runtime.batch_windows
        rows = [self._session.run(windows[start : start + size]) for start in range(0, len(windows), size)]
        done = time.perf_counter()
        timing = Timing(
            decode=milliseconds(ready - started),
            queue=0.0,
            inference=milliseconds(done - ready),
            total=milliseconds(done - started),
        )
        told = prediction(
            np.concatenate(rows), windows, decoded, metadata, timing, filename=name, min_confidence=min_confidence
        )
        return Prediction.of(told.model_dump())
