"""The regression guard: two results files, compared by ratios that travel between machines, never by times."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts.stages import STAGES

Json = dict[str, Any]

CLASSIC = "classic"
TOLERANCE = 0.15
"""A ratio may be so much worse, of its value before."""
_SMALL = 0.05
"""And a stage that takes less than this share of the roof's time is noise: it may change by so much of it."""


class NotComparableError(ValueError):
    """A results file does not hold what is compared; says what is missing."""


@dataclass(frozen=True)
class Ratio:
    """One number without a unit.

    Attributes:
        spread: its lowest and highest of the rounds; None where it was measured once.
        slack: by how much it may be worse without that meaning anything, in its own measure.
    """

    name: str
    value: float
    higher_is_better: bool
    spread: tuple[float, float] | None = None
    slack: float = 0.0

    def __str__(self) -> str:
        return f"{self.value:.3f}" + (" ({:.3f} to {:.3f})".format(*self.spread) if self.spread else "")

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest; the value itself twice where it was measured once."""
        return self.spread or (self.value, self.value)


def ratios(results: Json) -> list[Ratio]:
    """Requests/s relative to the classic peer, and each stage's time relative to the ceiling's.

    The ceiling's time of a request is what decoding and inference take in-process, without a server.

    Raises:
        NotComparableError: the parts ``peers`` or ``stages`` are not in the results, not whole, or not quoted.
    """
    parts = results.get("parts", {})
    for name in ("peers", "stages"):
        if name not in parts:
            raise NotComparableError(f"it has no part {name!r}; run `make benchmark` again")
        if reason := parts[name].get("left_out"):
            raise NotComparableError(f"its part {name!r} was left out: {reason}")
    classic = parts["peers"]["summary"].get(CLASSIC, {"failed": "it was not measured"})
    if reason := classic.get("failed") or classic["not_quoted"].get("per_second"):
        raise NotComparableError(f"requests/s of {CLASSIC} cannot be compared: {reason}")
    stages, roof = parts["stages"]["stages_ms"], parts["stages"]["roof"]
    if roof is None:
        raise NotComparableError(f"it has no roof: {results['settings']['url']} has other cores than who measured it")
    if reason := parts["stages"]["not_quoted"]:
        raise NotComparableError(f"requests/s to the roof's cannot be compared: {reason}")
    ceiling_ms = roof["decode_ms"] + roof["inference_ms"]
    achieved = parts["stages"]["achieved"]
    theirs, lowest, highest = classic["ratios"]["per_second"]
    reached = tuple(parts["stages"].get("achieved_spread") or ()) or None
    return [
        Ratio(f"requests/s, to {CLASSIC}'s", 1 / theirs, higher_is_better=True, spread=(1 / highest, 1 / lowest)),
        Ratio("requests/s, to the roof's", achieved, higher_is_better=True, spread=reached),
        *(
            Ratio(f"{stage}, to the roof's time", stages[stage] / ceiling_ms, higher_is_better=False, slack=_SMALL)
            for stage in (*STAGES, "pipeline", "around")
        ),
    ]


def worse(before: Ratio, after: Ratio, tolerance: float = TOLERANCE) -> bool:
    """Whether it is worse by more than tolerance and slack, and the worst round before is better than the best after.

    Where the rounds of one file reach into those of the other, a change is not told from chance.
    """
    (lowest, highest), (low, high) = before.ends, after.ends
    if before.higher_is_better:
        loss, apart = before.value - after.value, high < lowest
    else:
        loss, apart = after.value - before.value, highest < low
    return apart and loss > tolerance * before.value + before.slack


def check(before: Path, after: Path, tolerance: float = TOLERANCE) -> tuple[str, list[str]]:
    """A table of all ratios, and the names of those that are worse.

    Raises:
        NotComparableError: a file does not hold what is compared, or they were not asked the same.
    """
    whole_before, whole_after = _read(before), _read(after)
    pairs = list(zip(_of(before, whole_before), _of(after, whole_after), strict=True))
    if other := [name for name, same in _ALIKE.items() if same(whole_before) != same(whole_after)]:
        raise NotComparableError(f"{before} and {after} differ in {', '.join(other)}: no ratio of them says anything")
    lines, failed = ["| ratio | before | after | |", "|---|---|---|---|"], []
    for old, new in pairs:
        bad = worse(old, new, tolerance)
        failed += [old.name] if bad else []
        lines.append(f"| {old.name} | {old} | {new} | {'worse' if bad else 'holds'} |")
    return "\n".join(lines), failed


_ALIKE: dict[str, Callable[[Json], Any]] = {
    "clips": lambda whole: [clip["sha256"] for clip in whole["clips"]],
    "model": lambda whole: whole["model"],
    "scale": lambda whole: whole["settings"]["scale"],
    f"the setting that was taken for {CLASSIC}": lambda whole: _part(whole, "peers", "settings", CLASSIC, "taken"),
    "the roof's device": lambda whole: _part(whole, "stages", "roof", "device"),
}
"""What two files must have in common, or their ratios differ for that."""


def _part(whole: Json, *keys: str) -> Any:
    """What a part has under these keys; None where it was not measured."""
    found: Any = whole["parts"]
    for key in keys:
        found = (found or {}).get(key)
    return found


def _read(path: Path) -> Json:
    try:
        whole: Json = json.loads(path.read_text())
        for of in _ALIKE.values():
            of(whole)
    except (OSError, json.JSONDecodeError) as error:
        raise NotComparableError(f"{path}: {error}") from error
    except (KeyError, TypeError) as error:
        raise NotComparableError(f"{path} is no results file: no {error} in it") from error
    return whole


def _of(path: Path, whole: Json) -> list[Ratio]:
    try:
        return ratios(whole)
    except NotComparableError as error:
        raise NotComparableError(f"{path}: {error}") from error
    except (KeyError, TypeError) as error:
        raise NotComparableError(f"{path}: no {error} in it; run `make benchmark` again") from error
