"""From starting over ready to stopping: what every transport asks before it answers."""

from __future__ import annotations

import asyncio
import time

from serving.errors import NotReady, RequestError, Starting, Stopping
from serving.parts import Parts

FINISH_S = 30.0
"""What is in flight at a stop has so long, seconds, by whatever transports; a client that does not send its body would
hold us for ever. A pod's ``terminationGracePeriodSeconds`` counts on it."""

_LEAST_S = 1.0  # for a step of a stop when nothing is left: what is all but answered is answered


class Lifecycle:
    """Starting until there are parts; stopping once it has been told so."""

    def __init__(self, parts: Parts | None = None) -> None:
        self.parts = parts
        self.stopping = False
        self.told_to_stop = asyncio.Event()
        """Set in the event loop, a moment after ``stopping``: what waits for a stop waits for this."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finish_at: float | None = None

    def opened(self) -> None:
        """Called in the event loop that the service runs in."""
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Not ready any more. May be called from a signal handler, at any time."""
        self.stopping = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.told_to_stop.set)

    def left_to_finish_s(self) -> float:
        """How long the next step of a stop may wait for what is in flight, seconds.

        The steps come one after the other and share :data:`FINISH_S`, which run from the first time that this is asked.
        Each has a second, however late it comes.
        """
        now = time.monotonic()
        if self._finish_at is None:
            self._finish_at = now + FINISH_S
        return max(_LEAST_S, self._finish_at - now)

    def get(self) -> Parts:
        """The parts.

        Raises:
            Starting: there are none yet.
        """
        if self.parts is None:
            raise Starting("The service is starting: no model is loaded yet. Try again in a second.", retry_after_s=1)
        return self.parts

    async def why_not_ready(self) -> RequestError | None:
        """Why no new request should come here; None where it may. A version whose last pass failed is tried again."""
        if self.stopping:
            return Stopping("The service is stopping; what comes now is still answered.")
        if self.parts is None:
            return Starting("The service is starting: no model is loaded yet.", retry_after_s=1)
        if reasons := await asyncio.to_thread(self.parts.registry.sick):
            return NotReady(" ".join(reasons))
        return None
