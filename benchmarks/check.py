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
        slack: by how much it may be worse without that meaning anything, in its own measure.
    """

    name: str
    value: float
    higher_is_better: bool
    slack: float = 0.0


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
    return [
        Ratio(f"requests/s, to {CLASSIC}'s", 1 / classic["ratios"]["per_second"][0], higher_is_better=True),
        Ratio("requests/s, to the roof's", achieved, higher_is_better=True),
        *(
            Ratio(f"{stage}, to the roof's time", stages[stage] / ceiling_ms, higher_is_better=False, slack=_SMALL)
            for stage in (*STAGES, "pipeline", "around")
        ),
    ]


def worse(before: Ratio, after: Ratio, tolerance: float = TOLERANCE) -> bool:
    """Whether it is worse by more than tolerance and slack."""
    loss = before.value - after.value if before.higher_is_better else after.value - before.value
    return loss > tolerance * before.value + before.slack


def check(before: Path, after: Path, tolerance: float = TOLERANCE) -> tuple[str, list[str]]:
    """A table of all ratios, and the names of those that are worse.

    Raises:
        NotComparableError: a file does not hold what is compared, or they were not asked the same.
    """
    whole_before, whole_after = _read(before), _read(after)
    if other := [name for name, same in _ALIKE.items() if same(whole_before) != same(whole_after)]:
        raise NotComparableError(f"{before} and {after} differ in {', '.join(other)}: no ratio of them says anything")
    lines, failed = ["| ratio | before | after | |", "|---|---|---|---|"], []
    for old, new in zip(_of(before, whole_before), _of(after, whole_after), strict=True):
        bad = worse(old, new, tolerance)
        failed += [old.name] if bad else []
        lines.append(f"| {old.name} | {old.value:.3f} | {new.value:.3f} | {'worse' if bad else 'holds'} |")
    return "\n".join(lines), failed


_ALIKE: dict[str, Callable[[Json], Any]] = {
    "clips": lambda whole: [clip["sha256"] for clip in whole["clips"]],
    "model": lambda whole: whole["model"],
    "scale": lambda whole: whole["settings"]["scale"],
}
"""What two files must have in common, or their ratios differ for that."""


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
