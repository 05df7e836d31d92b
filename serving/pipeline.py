"""The one way of a request, whatever transport it came by: decode, cut, infer, aggregate."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from serving import audio
from serving.aggregate import answer, timeline, whole_clip
from serving.schemas import Prediction, Timing
from serving.session import Session

_BATCH_WINDOWS = 32  # of one long clip at a time: bounds memory, and more gains nothing


@dataclass(frozen=True)
class Upload:
    """One encoded file as a client sent it."""

    data: bytes
    filename: str | None


class Pipeline:
    """Answers uploads with one loaded version.

    Args:
        session: the version that answers.
        limits: what audio is accepted.
        workers: how many clips are decoded and inferred at once.
    """

    def __init__(self, session: Session, limits: audio.Limits, workers: int) -> None:
        self.session = session
        self._limits = limits
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="predict")

    async def predict(self, upload: Upload) -> Prediction:
        """Answer one upload.

        Raises:
            RequestError: the audio is refused; see ``audio.decode`` and ``audio.windows``.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, self._predict, upload, time.perf_counter())

    def close(self) -> None:
        """Finish what was begun and stop the workers."""
        self._workers.shutdown()

    def _predict(self, upload: Upload, arrived: float) -> Prediction:
        metadata = self.session.metadata
        started = time.perf_counter()
        clip = audio.decode(upload.data, metadata.windows.rate_hz, self._limits)
        windows = audio.windows(clip.samples, metadata.windows)
        decoded = time.perf_counter()
        probabilities = np.concatenate(
            [self.session.run(windows[i : i + _BATCH_WINDOWS]) for i in range(0, len(windows), _BATCH_WINDOWS)]
        )
        inferred = time.perf_counter()
        return Prediction(
            **answer(whole_clip(probabilities), metadata.labels),
            filename=upload.filename,
            model_version=metadata.version,
            duration_s=round(clip.duration_s, 3),
            segments=timeline(probabilities, windows, clip, metadata),
            timing_ms=Timing(
                decode=_ms(started, decoded),
                queue=_ms(arrived, started),
                inference=_ms(decoded, inferred),
                total=_ms(arrived, time.perf_counter()),
            ),
        )


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1e3, 3)
