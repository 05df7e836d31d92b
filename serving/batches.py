"""What a batcher passes around: items of windows, the parts of them that make a batch, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Gather = Callable[[], Rows]
"""Copies the windows of a batch together, float32 (n, samples); to be called where the pass runs, not before."""

Run = Callable[[Gather], Awaitable[Rows]]
"""A forward pass: probabilities float32 (n, classes) of the windows that are gathered."""

Reason = Literal["idle", "full", "waited"]
"""Why a batch went: the session was idle, the batch was full, or the wait for company was over."""


class Sliceable(Protocol):
    """Windows that are copied only when a slice is taken, such as ``audio.Windows`` or an array (n, samples)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Rows: ...


class Watcher(Protocol):
    """Is told what the batcher does; ``serving.metrics`` counts it."""

    def queued(self, windows: int) -> None:
        """So many windows are waiting now."""

    def released(self, windows: int, reason: Reason) -> None:
        """A batch of so many windows goes to the session."""


@dataclass(frozen=True)
class Limits:
    """How a batcher behaves.

    Attributes:
        lanes: forward passes that may run at a time.
        batch_windows: most windows of one pass.
        wait_s: longest wait for company while a lane is free.
        queue_windows: most windows that may wait; one recording may be longer than that if it waits alone.
    """

    lanes: int
    batch_windows: int
    wait_s: float
    queue_windows: int


@dataclass(frozen=True)
class Batched:
    """What became of one item.

    Attributes:
        probabilities: float32 (n, classes), in the order of its windows.
        queue_s: from its arrival until its first window went, while the session was busy.
        batch_s: what it waited for company while a lane was free.
        inference_s: from its first window's start to its last one's end.
    """

    probabilities: Rows
    queue_s: float
    batch_s: float
    inference_s: float


@dataclass(eq=False)
class Item:
    """What one caller has submitted, and how far it is.

    Attributes:
        taken: windows that have gone to a batch.
        missing: windows without a result yet.
        started: when its first window went.
        results: by first window.
    """

    windows: Sliceable
    answer: asyncio.Future[Batched]
    arrived: float
    taken: int = 0
    missing: int = 0
    started: float | None = None
    batch_s: float = 0.0
    results: dict[int, Rows] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """Windows that have not gone yet."""
        return len(self.windows) - self.taken


@dataclass(frozen=True)
class Part:
    """Consecutive windows of an item in one batch."""

    item: Item
    start: int
    stop: int


def gather(parts: list[Part]) -> Rows:
    """Their windows, copied together: float32 (n, samples)."""
    rows = [part.item.windows[part.start : part.stop] for part in parts]
    return np.concatenate(rows) if len(rows) > 1 else rows[0]
