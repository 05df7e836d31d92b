"""Latency at fixed arrival rates: Poisson, open loop, from the time a request was due."""

from __future__ import annotations

from benchmarks.bench import Bench, Json
from benchmarks.histogram import FEWEST
from benchmarks.loops import open_loop
from benchmarks.target import MULTIPART

SHARES = (0.10, 0.25, 0.50, 0.75, 0.90)
"""Of the transport's own capacity."""
_LOAD_S, _TAIL_S = 1.5, 5.0
_TAIL = 1.1 * FEWEST["p999_ms"]
"""Arrivals for a p99.9: where so many come within _TAIL_S, a load lasts until they have."""
_TAIL_OF = (MULTIPART, 0.50)
"""The load that lasts until they have, however long that takes."""


def measure(bench: Bench) -> Json:
    """Percentiles of every transport at every share of what it can do."""
    found = []
    for name, way in bench.service().transports(bench.data).items():
        most = bench.highest(name)
        for number, share in enumerate(SHARES):
            rate = share * most.per_second
            load = open_loop(
                way, rate, _seconds(bench, rate, whole=(name, share) == _TAIL_OF), bench.seed + number
            ).to_json()
            bench.say(
                f"{name}, {share:.0%} ({load['rate']:.0f}/s): p50 {load['p50_ms']:.1f}, p99 {load['p99_ms']:.1f} ms"
            )
            found.append({"transport": name, "share": share, "share_not_quoted": most.not_quoted, **load})
    return {"arrivals": "Poisson", "counted_from": "due time", "silent": bench.service().silent, "loads": found}


def _seconds(bench: Bench, rate: float, *, whole: bool = False) -> float:
    """Enough for a p99 at any rate, and for a p99.9 where that does not take long, or the load is to have one."""
    tail_s = min(1.0, bench.scale) * _TAIL / rate
    return max(bench.seconds_at(rate, _LOAD_S), tail_s if whole or tail_s <= bench.seconds(_TAIL_S) else 0.0)
