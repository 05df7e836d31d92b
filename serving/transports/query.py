"""What a query asks, of a clip as of a live stream: each parameter is one that there is, and comes once.

A name that is passed over would be an answer to another question than was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from starlette.datastructures import QueryParams

from serving.errors import InvalidRequest

VERSION, KEY, MIN_CONFIDENCE = "version", "key", "min_confidence"
OF_PREDICTIONS = (VERSION, KEY, MIN_CONFIDENCE)
"""Parameters of every path that answers with predictions."""

Number = TypeVar("Number", int, float)

_SHOWN = 40  # characters of what came


def parameters(query: QueryParams, path: str, names: Sequence[str]) -> Mapping[str, str]:
    """The parameters of a query by name.

    Args:
        names: which there are.

    Raises:
        InvalidRequest: another one, or one that comes more than once.
    """
    for name in query:
        if name not in names:
            raise InvalidRequest(f"{path} has no parameter {shown(name)} in its query; it takes {', '.join(names)}.")
        if len(came := query.getlist(name)) > 1:
            raise InvalidRequest(
                f"{name} came {len(came)} times, first as {shown(came[0])} and last as {shown(came[-1])}. Send it once."
            )
    return dict(query)


def number(
    given: Mapping[str, str],
    name: str,
    read: Callable[[str], Number],
    wanted: str,
    allowed: Callable[[Number], bool] = lambda _: True,
) -> Number | None:
    """A parameter that is a number; None where it is not given.

    Args:
        wanted: what it must be, for people.

    Raises:
        InvalidRequest: it is no number, or none that is allowed.
    """
    if name not in given:
        return None
    try:
        value = read(given[name])
    except ValueError:
        value = None
    if value is None or not allowed(value):
        raise InvalidRequest(f"{name} must be {wanted}; got {shown(given[name])}.")
    return value


def min_confidence(given: Mapping[str, str]) -> float:
    """Below which no emotion is named; 0 where it is not given. Raises InvalidRequest where it is no share."""
    return number(given, MIN_CONFIDENCE, float, "a number from 0 to 1", lambda share: 0 <= share <= 1) or 0.0


def shown(came: str) -> str:
    """What came, as a message quotes it."""
    return repr(came[:_SHOWN])
