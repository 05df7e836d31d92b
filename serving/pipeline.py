"""The one way of a request, whatever transport it came by: decode, cut, infer, aggregate."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from serving import audio
from serving.aggregate import answer, timeline, whole_clip
from serving.errors import InternalError, RequestError
from serving.metrics import Metrics
from serving.schemas import Prediction, Timing
from serving.session import Session

# Of one long clip at a time. More at once is slower on a CPU and grows the memory that ONNX Runtime keeps.
_BATCH_WINDOWS = 4


@dataclass(frozen=True)
class Upload:
    """One encoded file as a client sent it."""

    data: bytes
    filename: str | None


class Pipeline:
    """Answers uploads with one loaded version; as many at a time as there are cores.

    Args:
        session: the version that answers.
        limits: what audio is accepted.
        metrics: told of every answer and refusal.
    """

    def __init__(self, session: Session, limits: audio.Limits, metrics: Metrics) -> None:
        self.session = session
        self._limits = limits
        self._metrics = metrics
        self._workers = ThreadPoolExecutor(_cores(), thread_name_prefix="predict")

    async def predict(self, upload: Upload, transport: str) -> Prediction:
        """Answer one upload.

        Args:
            transport: by which it came, for the metrics.

        Raises:
            RequestError: the audio is refused; see ``audio.decode`` and ``audio.windows``.
        """
        loop = asyncio.get_running_loop()
        try:
            prediction = await loop.run_in_executor(self._workers, self._predict, upload, time.perf_counter())
        except RequestError as error:
            self.refused(error, transport)
            raise
        except Exception:
            self._metrics.requests.labels(transport, InternalError.code).inc()
            raise
        self._metrics.requests.labels(transport, "ok").inc()
        for stage, milliseconds in prediction.timing_ms:
            self._metrics.stages.labels(stage).observe(milliseconds / 1e3)
        return prediction

    def refused(self, error: RequestError, transport: str) -> None:
        """Count a request that was refused before it got here, too."""
        self._metrics.requests.labels(transport, error.code).inc()

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


def _cores() -> int:
    """Cores that this process may use; not every system can say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
