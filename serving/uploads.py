"""How much of request bodies is in memory: each counts as it comes in, and until it has been answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.errors import Overloaded
from serving.metrics import Metrics

Take = Callable[[int], None]
"""To be told of so many bytes more before they are kept; raises Overloaded where there is no room for them."""


class Uploads:
    """The bodies of a process; to be used from one event loop.

    A body counts what has come of it and not what it announces, so that clients who are slow hold no room that others
    could use.

    Args:
        most_bytes: of all of them together; one that is alone may be as long as a body may be.
    """

    def __init__(self, most_bytes: int, metrics: Metrics) -> None:
        self._most, self._metrics = most_bytes, metrics
        self._bytes = 0

    @contextmanager
    def holding(self) -> Iterator[Take]:
        """One body, which is let go of at the end.

        Raises:
            Overloaded: by what is given, with more of this body there would be too much.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            others = self._bytes - held
            if others and self._bytes + size > self._most:
                raise Overloaded(
                    f"{self._bytes >> 20} MiB of requests are in memory already and {self._most >> 20} may be. "
                    "Try again in a second.",
                    retry_after_s=1,
                    reason="uploads",
                )
            held += size
            self._add(size)

        try:
            yield take
        finally:
            self._add(-held)

    def _add(self, size: int) -> None:
        self._bytes += size
        self._metrics.upload_bytes.set(self._bytes)
