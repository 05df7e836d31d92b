"""What is decided by a request's head alone, before the application hears of it: the key, then whether there is room.

A refusal must cost next to nothing, since what it costs is taken from those who are being answered. Its way through
middlewares, routes and a task of its own would cost many times what the refusal itself does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from serving.errors import RequestError
from serving.lifecycle import Lifecycle
from serving.transports.admission import admit, refusal_at


class Early:
    """Lets clips in, as far as there are permits for them.

    Args:
        doors: a transport's name in the metrics -> pattern of the paths whose POST needs a permit.
    """

    def __init__(self, lifecycle: Lifecycle, doors: Mapping[str, str]) -> None:
        self._lifecycle = lifecycle
        self._doors = [(re.compile(pattern), transport) for transport, pattern in doors.items()]
        self._full: dict[str, Response] = {}  # made once for each transport: in a crowd it is the answer to most

    def __call__(self, scope: Scope) -> Response | None:
        """The answer to who is refused; None where the application goes on, and finds a place kept for a clip."""
        parts, path = self._lifecycle.parts, scope["path"]
        if parts is None or scope["method"] != "POST":
            return None
        transport = next((name for door, name in self._doors if door.fullmatch(path)), None)
        if transport is None or "origin" in Headers(scope=scope):  # browsers are told more, by the application
            return None
        try:
            admit(parts, scope)
        except RequestError as error:
            return refusal_at(path, error)
        overloaded = parts.pipeline.turned_away(transport)
        if overloaded is None:
            scope["state"]["place"] = parts.pipeline.places.keep()
            return None
        if transport not in self._full:
            self._full[transport] = refusal_at(path, overloaded)
        return self._full[transport]
