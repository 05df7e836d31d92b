"""Places kept for requests on their way in: those whose head has come, and which will ask for a permit in a moment.

Without them whoever comes in one turn of the event loop while one permit is left would be let in, be read whole, and
then be refused all but one.
"""

from __future__ import annotations

import asyncio

_KEPT_S = 0.1  # a body that takes longer is on a slow line, and asks for a permit when it is there


class Places:
    """Counts them; to be used from one event loop."""

    def __init__(self) -> None:
        self.kept = 0

    def keep(self) -> Place:
        """One more."""
        return Place(self)


class Place:
    """One place: given up when its request is in or over, and by itself after a moment."""

    def __init__(self, places: Places) -> None:
        self._places, self.kept = places, True
        places.kept += 1
        self._timer = asyncio.get_running_loop().call_later(_KEPT_S, self.give_up)

    def give_up(self) -> None:
        """Let others have it; nothing where that has been done before."""
        if self.kept:
            self.kept = False
            self._places.kept -= 1
            self._timer.cancel()
