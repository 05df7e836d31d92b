"""Whether waiting for company pays: learned from what recent batches cost and how fast requests come."""

from __future__ import annotations

import numpy as np


class Learned:
    """What recent batches cost and how fast windows come; both forget."""

    _FORGET = 0.95  # per batch: about the last 20 count
    _ARRIVAL = 0.1  # weight of the newest gap
    _PAUSE = 2.0  # a gap of more batches than this ends a burst

    def __init__(self) -> None:
        self._sums = np.zeros(5)  # of 1, n, n^2, t, n t
        self.gap_s = float("inf")
        self._newest_s = float("inf")
        self._last: float | None = None

    def arrived(self, now: float) -> None:
        """An item came."""
        if self._last is not None:
            gap = self._newest_s = now - self._last
            known = self.gap_s != float("inf")
            self.gap_s = self.gap_s + self._ARRIVAL * (gap - self.gap_s) if known else gap
        self._last = now

    def ran(self, windows: int, seconds: float) -> None:
        """A batch was run."""
        n, t = float(windows), seconds
        self._sums = self._FORGET * self._sums + np.array([1.0, n, n * n, t, n * t])

    def cost_s(self) -> tuple[float, float]:
        """(a, b) of seconds = a + b * windows, by least squares; a is 0 until sizes have differed enough to tell."""
        count, n, nn, t, nt = self._sums
        spread = count * nn - n * n
        if count == 0:
            return 0.0, 0.0
        if spread < 0.1 * count * count:  # variance of the sizes below 0.1
            return 0.0, max(0.0, t / n)
        b = max(0.0, (count * nt - n * t) / spread)
        return max(0.0, (t - b * n) / count), b

    def wait_s(self, windows: int) -> float:
        """How long to wait for one more item when ``windows`` could go now; 0 where that does not pay.

        Let a batch cost a + b n and the next item come in g. Without waiting, it waits for the batch and pays its own:
        (a + b n - g) + (a + b). With waiting it pays a + b (n + 1), and each of the n others waits g + b longer. So
        waiting saves a - g for the one and costs n (g + b): it pays where a > (n + 1) g + n b.

        g is an average, which a pause raises slowly: who comes first after one waits for nobody. Clients who ask again
        as soon as they are answered leave a gap of one batch, and are no pause.
        """
        fixed, each = self.cost_s()
        if self._newest_s > self._PAUSE * fixed:
            return 0.0
        if fixed <= (windows + 1) * self.gap_s + windows * each:
            return 0.0
        return 2 * self.gap_s
