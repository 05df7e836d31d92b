"""How much requests hold in memory, of one kind: their bodies, or the audio that was decoded of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from prometheus_client import Gauge

from serving.errors import Overloaded

Take = Callable[[int], None]
"""To be told of so many bytes more before they are kept, or fewer; raises Overloaded where there is no room."""


class Room:
    """What the requests of a process may hold together; to be used from any thread.

    A body counts what has come of it and not what it announces, so that clients who are slow hold no room that others
    could use. Audio counts as soon as room for it is made.

    Args:
        most_bytes: of all of them together; what is held alone may be as much as a request may bring.
        what: that is held, in words.
        reason: as :class:`Overloaded` tells what was full.
    """

    def __init__(self, most_bytes: int, gauge: Gauge, *, what: str, reason: str) -> None:
        self._most, self._gauge, self._what, self._reason = most_bytes, gauge, what, reason
        self._lock = threading.Lock()
        self._bytes = 0

    def holding(self) -> Holding:
        """For one request."""
        return Holding(self)

    def change(self, held: int, size: int) -> None:
        """So many bytes more, or fewer, for whom holds ``held`` already.

        Raises:
            Overloaded: there would be too much.
        """
        with self._lock:
            others = self._bytes - held
            if size > 0 and others and self._bytes + size > self._most:
                raise Overloaded(
                    f"{self._bytes >> 20} MiB of {self._what} are in memory already and {self._most >> 20} may be. "
                    "Try again in a second.",
                    retry_after_s=1,
                    reason=self._reason,
                )
            self._bytes += size
            self._gauge.set(self._bytes)


class Holding:
    """What one request holds: called with so many bytes more, as :data:`Take` says.

    It is let go of when everyone who has entered has left. A thread that decodes cannot be stopped and may stay longer
    than the request, which was told that its time is over.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._bytes = self._inside = 0

    def __enter__(self) -> Self:
        with self._lock:
            self._inside += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._room.change(self._bytes, -self._bytes)
                self._bytes = 0

    def __call__(self, size: int) -> None:
        with self._lock:
            self._room.change(self._bytes, size)
            self._bytes += size
