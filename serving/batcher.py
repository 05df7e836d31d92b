"""One adaptive queue before one loaded version: windows in, probabilities out. Knows no audio and no transport.

An idle lane runs what there is at once; while all lanes are busy the queue builds up, and the next batch takes what has
gathered. Where a batch costs much before its first window (CUDA), a little waiting for company can pay: see
:meth:`serving.learned.Learned.wait_s`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from serving.batches import Batched, Item, Limits, Part, Rows, Run, Sliceable, Watcher, gather
from serving.errors import DeadlineExceeded, Overloaded, Stopping
from serving.learned import Learned


class Batcher:
    """One bounded queue and the lanes that empty it; to be used from one event loop.

    Args:
        run: the forward pass.
        watcher: is told of queue and batches.
        clock: seconds; the event loop's own counts whole milliseconds where it is uvloop.
    """

    def __init__(
        self, run: Run, limits: Limits, watcher: Watcher, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._run, self._limits, self._watcher, self._clock = run, limits, watcher, clock
        self._queue: deque[Item] = deque()
        self._waiting = 0  # windows
        self._free = limits.lanes
        self._learned = Learned()
        self._timer: asyncio.TimerHandle | None = None
        self._alone_since: float | None = None  # the extra wait has run since then
        self._work: set[asyncio.Task[None]] = set()
        self._closing = False
        self.healthy = True
        """Whether the last batch was answered."""

    @property
    def idle(self) -> bool:
        """Nothing waits and a lane is free."""
        return not self._queue and self._free > 0

    def oldest_s(self) -> float:
        """How long the item that came first has waited."""
        return self._clock() - min(item.arrived for item in self._queue) if self._queue else 0.0

    def learn(self, windows: int, seconds: float) -> None:
        """Tell what a batch of that size took, as the warm-up measured it."""
        self._learned.ran(windows, seconds)

    async def submit(self, windows: Sliceable, deadline: float | None = None) -> Batched:
        """Probabilities of some windows.

        Args:
            windows: (n, samples), n > 0; slices are taken when they go.
            deadline: of the event loop's clock; what has not been answered then is dropped.

        Raises:
            Overloaded: the queue is full.
            DeadlineExceeded: it was not answered in time.
            Stopping: the batcher has been closed.
            Exception: what ``run`` raised on these windows alone.
        """
        if self._closing:
            raise Stopping("The service is stopping. Send the request again; another replica answers it.")
        if self._waiting and self._waiting + len(windows) > self._limits.queue_windows:
            raise Overloaded(
                f"{self._waiting} windows wait already and {self._limits.queue_windows} may. Try again in a moment.",
                retry_after_s=1,
                reason="queue",
            )
        answer = asyncio.get_running_loop().create_future()
        item = Item(windows, answer, self._clock(), missing=len(windows))
        self._learned.arrived(item.arrived)
        self._queue.append(item)
        self._wait_more(len(windows))
        self._pump()
        try:
            async with asyncio.timeout_at(deadline):
                return await item.answer
        except TimeoutError:
            raise DeadlineExceeded("The answer was not ready before the request's deadline.") from None
        finally:
            self._forget(item)

    async def close(self) -> None:
        """Take nothing more; return when everything that waits has been answered."""
        self._closing = True
        self._pump()
        while self._work:
            await asyncio.wait(self._work)

    def _wait_more(self, windows: int) -> None:
        self._waiting += windows
        self._watcher.queued(self._waiting)

    def _forget(self, item: Item) -> None:
        """Take what still waits of an item out of the queue: it is answered, failed, too late, or nobody wants it."""
        if item.waiting:
            self._queue.remove(item)
            self._wait_more(-item.waiting)
            item.taken = len(item.windows)
        if not self._queue:
            self._wait_for_nobody()

    def _pump(self) -> None:
        """Let batches go while there is a lane for them."""
        while self._free and self._queue:
            wait_s = self._extra_wait_s()
            if wait_s > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(wait_s, self._company_is_late)
                return
            self._start()

    def _extra_wait_s(self) -> float:
        """How much longer to wait for company now."""
        if self._closing or self._waiting >= self._limits.batch_windows or not self._limits.wait_s:
            return 0.0
        now = self._clock()
        since = now if self._alone_since is None else self._alone_since
        left = since + self._limits.wait_s - now
        wait_s = min(self._learned.wait_s(self._waiting), left)
        if wait_s > 0:
            self._alone_since = since
        return max(0.0, wait_s)

    def _company_is_late(self) -> None:
        self._timer = None
        if self._free and self._queue:
            self._start()
            self._pump()

    def _wait_for_nobody(self) -> None:
        self._alone_since = None
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        now = self._clock()
        waited_s = 0.0 if self._alone_since is None else now - self._alone_since
        parts = self._take(now, waited_s)
        windows = sum(part.stop - part.start for part in parts)
        full = windows >= self._limits.batch_windows
        self._watcher.released(windows, "full" if full else "waited" if self._alone_since is not None else "idle")
        self._wait_for_nobody()
        self._free -= 1
        task = asyncio.get_running_loop().create_task(self._serve(parts, windows))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _take(self, now: float, waited_s: float) -> list[Part]:
        """The next batch: one window of each item in turn, so that a long recording cannot hold up short ones."""
        room = min(self._limits.batch_windows, self._waiting)
        starts: dict[Item, int] = {}
        for _ in range(room):
            item = self._queue.popleft()
            starts.setdefault(item, item.taken)
            item.taken += 1
            if item.waiting:
                self._queue.append(item)
        for item in starts:
            if item.started is None:
                item.started = now
                item.batch_s = min(waited_s, now - item.arrived)
        self._wait_more(-room)
        return [Part(item, start, item.taken) for item, start in starts.items()]

    async def _serve(self, parts: list[Part], windows: int) -> None:
        started = self._clock()
        try:
            results = await self._run(lambda: gather(parts))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to whom it concerns
            await self._serve_alone(parts, error)
        else:
            self.healthy = True
            self._learned.ran(windows, self._clock() - started)
            row = 0
            for part in parts:
                size = part.stop - part.start
                self._give(part, results[row : row + size])
                row += size
        finally:
            self._free += 1
            self._pump()

    async def _serve_alone(self, parts: list[Part], error: Exception) -> None:
        """A batch failed: run each item by itself, so that a bad one fails alone."""
        if len(parts) == 1:
            self.healthy = False
            self._fail(parts[0].item, error)
            return
        for part in parts:
            if part.item.answer.done():
                continue  # too late, or nobody wants it any more
            try:
                self._give(part, await self._run(lambda part=part: gather([part])))  # type: ignore[misc]
                self.healthy = True
            except Exception as own:  # noqa: BLE001
                self.healthy = False
                self._fail(part.item, own)

    def _give(self, part: Part, rows: Rows) -> None:
        item = part.item
        item.results[part.start] = rows
        item.missing -= part.stop - part.start
        if item.missing or item.answer.done():
            return
        started = item.arrived if item.started is None else item.started
        ordered = [item.results[start] for start in sorted(item.results)]
        now = self._clock()
        item.answer.set_result(
            Batched(
                np.concatenate(ordered) if len(ordered) > 1 else ordered[0],
                started - item.arrived - item.batch_s,
                item.batch_s,
                now - started,
            )
        )

    def _fail(self, item: Item, error: Exception) -> None:
        if not item.answer.done():
            item.answer.set_exception(error)
        self._forget(item)
