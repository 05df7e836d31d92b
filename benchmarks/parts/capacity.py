"""How many requests a second: closed loops of more and more clients, and the highest rate that holds a p99."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.bench import Bench, Json
from benchmarks.loops import closed_loop, open_loop
from benchmarks.rounds import in_turn, told
from benchmarks.target import MULTIPART

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
_FEW = (8, 32)  # of the other transports: enough to know what their rates are shares of
P99_MS = 50.0
_PROBES = 5
_LOAD_S, _WARM_S, _PROBE_S = 0.5, 0.3, 2.0


def measure(bench: Bench) -> Json:
    """Requests per second of every transport, and the highest Poisson rate whose p99 is within P99_MS.

    Every number of clients of every transport is asked in turn, round after round.
    """
    ways = bench.service().transports(bench.data)
    rounds = in_turn(
        {
            (name, clients): partial(closed_loop, way, clients, bench.seconds(_LOAD_S), _WARM_S)
            for name, way in ways.items()
            for clients in (CLIENTS if name == MULTIPART else _FEW)
        },
        bench.rounds,
    )
    found: Json = {}
    for name in ways:
        loads = [told(loads) for (transport, _), loads in rounds.items() if transport == name]
        for load in loads:
            low, high = load["spread"]
            bench.say(f"{name}, {load['clients']} clients: {load['per_second']:.0f}/s ({low:.0f} to {high:.0f})")
        found[name] = {"loads": loads, **quoted(loads)}
    probes: list[Json] = []

    def p99_ms(rate: float) -> Json:
        seconds = bench.seconds_at(rate, _PROBE_S)
        probes.append(open_loop(bench.multipart(), rate, seconds, bench.seed + len(probes)).to_json())
        bench.say(f"{rate:.0f}/s: p99 {probes[-1]['p99_ms']:.1f} ms")
        return probes[-1]

    held = highest_rate(p99_ms, found[MULTIPART]["highest_seen"])
    silent = bench.service().silent
    return {"transports": found, "silent": silent, "held": {"p99_ms": P99_MS, **held, "probes": probes}}


def quoted(loads: list[Json]) -> Json:
    """The most that was answered, medians of rounds; as a capacity only where the load generator was not the limit."""
    best = max(loads, key=lambda load: float(load["per_second"]))
    reason = best["generator"]["bottleneck"]
    return {
        "highest_seen": best["per_second"],
        "per_second": None if reason else best["per_second"],
        "clients": best["clients"],
        "not_quoted": reason,
    }


def highest_rate(at: Callable[[float], Json], most: float, probes: int = 0) -> Json:
    """By halving: the highest probed rate that is held, 0 where none is; and why it is not quoted, where it is not.

    Two of three probes of a rate decide, either way: a stall of the machine is not the service's, nor is one quiet
    moment. Where the next higher rate failed for the load generator's sake, what the service holds is not known, and
    not quoted.

    Args:
        at: an open loop at a rate.
        most: higher is not looked.
        probes: how many rates; _PROBES where 0.
    """
    low, high, not_quoted = 0.0, most, ""
    for _ in range(probes or _PROBES):
        rate = (low + high) / 2
        if why := _two_of_three(at, rate):
            high, not_quoted = rate, "" if why == _SLOW else why
        else:
            low = rate
    return {"rate": round(low, 1), "not_quoted": not_quoted}


_SLOW = "its p99 is too high, or requests failed"


def _two_of_three(at: Callable[[float], Json], rate: float) -> str:
    """Why a rate is not held; empty where it is."""
    whys: list[str] = []
    while max(whys.count(""), len(whys) - whys.count("")) < 2:
        whys.append(_why_not(at(rate)))
    failed = [why for why in whys if why]
    return next((why for why in failed if why != _SLOW), _SLOW) if len(failed) > 1 else ""


def _why_not(load: Json) -> str:
    held = 0 < load["p99_ms"] <= P99_MS and not load["errors"]
    return load["generator"]["bottleneck"] or ("" if held else _SLOW)
