"""A version without a server: one folder, one function."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from serving import audio
from serving.aggregate import prediction
from serving.artifact import Artifact
from serving.runtime import choose_runtime
from serving.schemas import Prediction, Timing, milliseconds
from serving.session import Session


class Local:
    """Hears clips with one exported version in this process; see :func:`load`."""

    def __init__(self, session: Session, limits: audio.Limits) -> None:
        self._session, self._limits = session, limits

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions it knows."""
        return self._session.metadata.labels

    def __call__(self, clip: str | Path | bytes, min_confidence: float = 0.0) -> Prediction:
        """The answer to one clip, the same that the service gives.

        Args:
            clip: path of an audio file, or its bytes.
            min_confidence: below it no emotion is named.

        Raises:
            OSError: the file cannot be read.
            RequestError: the audio is refused; see ``audio.decode`` and ``audio.windows``.
        """
        started = time.perf_counter()
        data, name = (clip, None) if isinstance(clip, bytes) else (Path(clip).read_bytes(), Path(clip).name)
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
        return prediction(
            np.concatenate(rows), windows, decoded, metadata, timing, filename=name, min_confidence=min_confidence
        )


def load(folder: str | Path, limits: audio.Limits | None = None) -> Local:
    """A saved version as a function: ``load("exported/1")("clip.wav").emotion``.

    Raises:
        ArtifactError: the folder is no version, or it is damaged.
    """
    return Local(Session(Artifact.load(Path(folder)), choose_runtime("auto", 0, 0)), limits or audio.Limits())
