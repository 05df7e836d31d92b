"""What is compared is asked in turn, round after round, so that a noisy moment meets all; medians, and their spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, TypeVar

from benchmarks.load import Load

Name = TypeVar("Name")
Found = TypeVar("Found")


def in_turn(measures: Mapping[Name, Callable[[], Found]], rounds: int) -> dict[Name, list[Found]]:
    """What each finds, once a round; forwards and backwards by turns."""
    found: dict[Name, list[Found]] = {name: [] for name in measures}
    for turn in range(rounds):
        for name in measures if turn % 2 == 0 else reversed(list(measures)):
            found[name].append(measures[name]())
    return found


def spread(values: Sequence[float], digits: int = 2) -> list[float]:
    """The median, the lowest and the highest."""
    return [round(value, digits) for value in (median(values), min(values), max(values))]


def told(loads: Sequence[Load]) -> dict[str, Any]:
    """Rounds of one load: percentiles of all together; requests/s as their median, with the lowest and highest."""
    middle, lowest, highest = spread([load.per_second for load in loads])
    return {**Load.merged(loads).to_json(), "per_second": middle, "spread": [lowest, highest]}
