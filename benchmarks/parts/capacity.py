"""How many requests a second: closed loops of more and more clients, and the highest rate that holds a p99."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench, Json
from benchmarks.load import Transport
from benchmarks.loops import closed_loop, open_loop
from benchmarks.target import MULTIPART

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
_FEW = (8, 32)  # of the other transports: enough to know what their rates are shares of
P99_MS = 50.0
_PROBES = 5
_LOAD_S, _PROBE_S = 1.5, 2.5


def measure(bench: Bench) -> Json:
    """Requests per second of every transport, and the highest Poisson rate whose p99 is within P99_MS."""
    found: Json = {}
    for name, way in bench.service().transports(bench.data).items():
        loads = []
        for clients in CLIENTS if name == MULTIPART else _FEW:
            loads.append(closed_loop(way, clients, bench.seconds(_LOAD_S)).to_json())
            bench.say(f"{name}, {clients} clients: {loads[-1]['per_second']:.0f}/s, p99 {loads[-1]['p99_ms']:.1f} ms")
        found[name] = {"loads": loads, **quoted(loads)}
    probes: list[Json] = []

    def p99_ms(rate: float) -> Json:
        probes.append(probe(bench.multipart(), rate, bench.seconds(_PROBE_S), bench.seed + len(probes)))
        bench.say(f"{rate:.0f}/s: p99 {probes[-1]['p99_ms']:.1f} ms")
        return probes[-1]

    rate = highest_rate(p99_ms, found[MULTIPART]["highest_seen"])
    return {"transports": found, "held": {"p99_ms": P99_MS, "rate": rate, "probes": probes}}


def quoted(loads: list[Json]) -> Json:
    """The most that was answered; as a capacity only where the load generator was not what limited it."""
    best = max(loads, key=lambda load: float(load["per_second"]))
    reason = best["generator"]["bottleneck"]
    return {
        "highest_seen": best["per_second"],
        "per_second": None if reason else best["per_second"],
        "clients": best["clients"],
        "not_quoted": reason,
    }


def probe(way: Transport, rate: float, seconds: float, seed: int) -> Json:
    """An open loop at one rate."""
    return open_loop(way, rate, seconds, seed).to_json()


def highest_rate(at: Callable[[float], Json], most: float, probes: int = 0) -> float:
    """By halving: the highest probed rate that is held, 0 where none is.

    A rate is held when its p99 is within :data:`P99_MS`, nothing failed, and the generator kept time.

    Args:
        at: an open loop at a rate.
        most: higher is not looked.
        probes: how often; _PROBES where 0.
    """
    low, high = 0.0, most
    for _ in range(probes or _PROBES):
        rate = (low + high) / 2
        load = at(rate)
        held = 0 < load["p99_ms"] <= P99_MS and not load["errors"] and not load["generator"]["bottleneck"]
        low, high = (rate, high) if held else (low, rate)
    return round(low, 1)
