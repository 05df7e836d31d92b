"""More clients than permits: how soon the others hear that there is no room, and what that does to those admitted."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.load import Load, Transport
from benchmarks.loops import closed_loop
from benchmarks.peers import timbre
from benchmarks.record import write
from benchmarks.sounds import wav
from benchmarks.transports import multipart

PERMITS, CLIENTS = 8, 32
PAUSE_S = 0.1  # before somebody who was refused comes again: a tenth of what the answer's Retry-After asks for
SOON_S = 0.02

Json = dict[str, Any]


def refusals(out: Path, rounds: int, seconds: float) -> Json:
    """Measure with as many clients as permits, and with four times as many, in turn; write refusals.json and .md.

    Args:
        seconds: of each load.
    """
    with timbre(max_inflight=PERMITS) as server:
        way = multipart(server.url, [wav()])
        found = [_round(way, seconds) for _ in range(rounds)]
    results: Json = {
        "permits": PERMITS,
        "clients": CLIENTS,
        "pause_s": PAUSE_S,
        "seconds": seconds,
        "rounds": found,
        "summary": summary(found),
    }
    write(out / "refusals.json", results)
    (out / "refusals.md").write_text(table(results["summary"]))
    return results


def _round(way: Transport, seconds: float) -> Json:
    quiet = closed_loop(way, PERMITS, seconds)
    crowded = closed_loop(way, CLIENTS, seconds, pause_s=PAUSE_S)
    return {"quiet": quiet.to_json(), "crowded": crowded.to_json(), "refused": refused(crowded)}


def refused(load: Load) -> Json:
    """Percentiles of the time to a refusal, and the share of them within 20 ms.

    Raises:
        RuntimeError: nobody was refused.
    """
    if not load.refused_s:
        raise RuntimeError(f"Nobody was refused: {dict(load.outcomes)}.")
    p50, p99, most = (round(float(p) * 1e3, 2) for p in np.percentile(load.refused_s, [50, 99, 100]))
    soon = sum(seconds < SOON_S for seconds in load.refused_s) / len(load.refused_s)
    return {
        "refusals": len(load.refused_s),
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": most,
        "within_20_ms": round(soon, 4),
    }


def summary(found: list[Json]) -> Json:
    """Medians over rounds; and what a crowd does to the latency of those admitted, as a ratio within each round."""

    def of(part: str, key: str) -> float:
        return float(median(one[part][key] for one in found))

    return {
        "quiet": {key: of("quiet", key) for key in ("per_second", "p50_ms", "p99_ms")},
        "crowded": {key: of("crowded", key) for key in ("per_second", "p50_ms", "p99_ms")},
        "refused": {key: of("refused", key) for key in ("refusals", "p50_ms", "p99_ms", "max_ms", "within_20_ms")},
        "latency_ratio": round(median(one["crowded"]["p50_ms"] / one["quiet"]["p50_ms"] for one in found), 3),
    }


def table(told: Json) -> str:
    """Markdown: a line for those admitted without and with a crowd, and one for the crowd."""
    head = f"| {PERMITS} permits | a second | p50 ms | p99 ms |\n|---|---|---|---|\n"
    rows = [
        (f"admitted, {PERMITS} clients", told["quiet"]["per_second"], told["quiet"]),
        (f"admitted, {CLIENTS} clients", told["crowded"]["per_second"], told["crowded"]),
    ]
    lines = [f"| {name} | {rate:.0f} | {line['p50_ms']:.1f} | {line['p99_ms']:.1f} |\n" for name, rate, line in rows]
    away = told["refused"]
    lines.append(
        f"| refused, {away['within_20_ms']:.1%} within 20 ms | | {away['p50_ms']:.1f} | {away['p99_ms']:.1f} |\n"
    )
    return head + "".join(lines)
