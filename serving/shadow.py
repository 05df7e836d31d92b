"""Another version hears a share of the requests after they have been answered; nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from serving.aggregate import whole_clip
from serving.audio import Windows
from serving.metrics import Metrics
from serving.registry import Fleet, Loaded

logger = logging.getLogger("timbre")

_MOST_WAITING = 32
_MOST_SAMPLES = 1 << 22  # float32: 16 MB of sound may wait
_LOOK_S = 0.005
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class _Echo:
    """One answered request."""

    shadow: Loaded
    primary: Loaded
    windows: Windows
    heard: int  # index of the label that was answered


class Shadowing:
    """Runs while nothing else does; what waits too long or does not fit is dropped first.

    Args:
        busy: whether any request is being answered.
    """

    def __init__(self, metrics: Metrics, busy: Callable[[], bool]) -> None:
        self._metrics, self._busy = metrics, busy
        self._waiting: deque[_Echo] = deque()
        self._samples = 0
        self._task: asyncio.Task[None] | None = None

    def offer(self, fleet: Fleet, primary: Loaded, windows: Windows, heard: int) -> None:
        """Let the shadow hear a request that has just been answered, if the dice say so."""
        shadow = fleet.routes.shadow
        if shadow is None or shadow.version == primary.version or random.random() * 100 >= shadow.percent:
            return  # a version that was asked for itself would only agree with itself
        echo = _Echo(fleet.versions[shadow.version], primary, windows, heard)
        if len(self._waiting) >= _MOST_WAITING or self._samples + windows.samples.size > _MOST_SAMPLES:
            self._count(echo, "dropped")
            return
        self._waiting.append(echo)
        self._samples += windows.samples.size
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    def close(self) -> None:
        """Drop what waits."""
        if self._task:
            self._task.cancel()

    async def _work(self) -> None:
        await asyncio.sleep(_LOOK_S)  # the answer that was just found is not on its way yet
        while self._waiting:
            echo = self._waiting[0]
            result = await self._hear(echo)
            self._waiting.popleft()
            self._samples -= echo.windows.samples.size
            self._count(echo, result)

    async def _hear(self, echo: _Echo) -> str:
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE_S
        rows = []
        try:
            for start in range(
                len(echo.windows)
            ):  # one at a time, so that a request which comes now waits for one only
                while self._busy() or not echo.shadow.batcher.idle:
                    if loop.time() > until:
                        return "dropped"
                    await asyncio.sleep(_LOOK_S)
                rows.append((await echo.shadow.batcher.submit(echo.windows[start : start + 1])).probabilities)
        except Exception:
            logger.exception("The shadow, version %s, failed on a request that was answered", echo.shadow.version)
            return "failed"
        labels, primary_labels = echo.shadow.session.metadata.labels, echo.primary.session.metadata.labels
        heard = labels[int(whole_clip(np.concatenate(rows)).argmax())]
        return "agree" if heard == primary_labels[echo.heard] else "disagree"

    def _count(self, echo: _Echo, result: str) -> None:
        self._metrics.shadow.labels(echo.shadow.version, echo.primary.version, result).inc()
