"""How often two exported versions hear another emotion in one clip: where the canary's limit comes from."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.record import write
from serving.artifact import versions
from serving.client import load

Json = dict[str, Any]

EXPORTED = Path(__file__).parents[1] / "exported"
LEAST_COMPARED = 100
"""Of fewer clips a share says too little; the canary's analysis does not judge before."""
_Z = 2.326
"""One-sided 99 %: a version that differs as these do is stopped by chance once in a hundred measurements, not more."""


def disagreement(out: Path, data: Path) -> Json:
    """Every two versions on every clip under a folder; writes disagreement.json, returns the results.

    Args:
        data: folders ``Actor_08`` and ``Actor_17`` of RAVDESS, the speakers of whom version 2 heard nothing.

    Raises:
        FileNotFoundError: there is no clip of these speakers.
    """
    clips = sorted(path for actor in ("08", "17") for path in (data / f"Actor_{actor}").glob("*.*"))
    if not clips:
        raise FileNotFoundError(f"{data} has no clips in Actor_08 and Actor_17; name the folder that has them")
    found = versions(EXPORTED)
    heard = {version: [answer.emotion for answer in map(load(EXPORTED / version), clips)] for version in found}
    pairs = [{"versions": list(pair), **shares(heard[pair[0]], heard[pair[1]])} for pair in combinations(found, 2)]
    results = {
        "clips": len(clips),
        "speakers": ["08", "17"],
        "least_compared": LEAST_COMPARED,
        "pairs": pairs,
        "limit": limit(max(pair["share"] for pair in pairs), len(clips)),
    }
    write(out / "disagreement.json", results)
    return results


def shares(one: list[str | None], other: list[str | None]) -> Json:
    """How many of the clips the two name differently."""
    differing = sum(a != b for a, b in zip(one, other, strict=True))
    return {"disagree": differing, "share": round(differing / len(one), 4)}


def limit(share: float, clips: int) -> float:
    """The share above which a version differs by more than these do, rounded up to a hundredth.

    The difference of two proportions, one measured here on so many clips, one there on ``LEAST_COMPARED``.
    """
    spread = math.sqrt(share * (1 - share) * (1 / clips + 1 / LEAST_COMPARED))
    return math.ceil((share + _Z * spread) * 100) / 100
