"""More clients than permits: how soon the others hear that there is no room, and what that does to those admitted."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.load import OK, Load, Transport
from benchmarks.loops import closed_loop
from benchmarks.peers import timbre
from benchmarks.process import Server, bound_to
from benchmarks.record import write
from benchmarks.sounds import wav
from benchmarks.transports import multipart

PERMITS, CLIENTS = 8, 32
PAUSE_S = 0.1  # before somebody who was refused comes again: a tenth of what the answer's Retry-After asks for
SOON_S = 0.02

CROWDS = {"crowded": PAUSE_S, "insistent": 0.0}
"""Pause of those who were refused, by what a load is called."""

Json = dict[str, Any]
Split = tuple[set[int], set[int]]


def refusals(out: Path, rounds: int, seconds: float) -> Json:
    """Measure with as many clients as permits, and with four times as many, in turn; write refusals.json and .md.

    Args:
        seconds: of each load.
    """
    results: Json = {"permits": PERMITS, "clients": CLIENTS, "pauses_s": CROWDS, "seconds": seconds, "cases": {}}
    for name, (servers, ours) in splits().items():
        with timbre(servers, max_inflight=PERMITS) as server, bound_to(ours):
            way = multipart(server.url, [wav()])
            found = [_round(server, way, seconds) for _ in range(rounds)]
        cores = {"server": sorted(servers), "generator": sorted(ours)}
        results["cases"][name] = {"cores": cores, "rounds": found, "summary": summary(found)}
    write(out / "refusals.json", results)
    (out / "refusals.md").write_text(table(results["cases"]))
    return results


def splits() -> dict[str, Split]:
    """Which cores the server and the load generator may use: the same, and, where there are several, cores apart."""
    every = os.sched_getaffinity(0)
    ours = {max(every)}
    found = {"shared": (every, every)}
    return found | ({"apart": (every - ours, ours)} if every - ours else {})


def _round(server: Server, way: Transport, seconds: float) -> Json:
    began_s = server.cpu_s()
    quiet = closed_loop(way, PERMITS, seconds)
    answer_s = (server.cpu_s() - began_s) / max(1, quiet.all_requests)
    told: Json = {"quiet": quiet.to_json() | {"server_cpu_ms": round(1e3 * answer_s, 3)}}
    for name, pause_s in CROWDS.items():
        began_s = server.cpu_s()
        load = closed_loop(way, CLIENTS, seconds, pause_s=pause_s)
        away = refused(load)
        # What is left when each answer has cost what it costs without a crowd; the warm-up has its share of both.
        spent_s = (server.cpu_s() - began_s) * load.outcomes.total() / load.all_requests
        left_s = max(0.0, spent_s - answer_s * load.outcomes[OK])
        away["server_cpu_ms"] = round(1e3 * left_s / away["refusals"], 3)
        told[name] = load.to_json() | {"refused": away}
    return told


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

    def of(*keys: str) -> float:
        values: list[Any] = found
        for key in keys:
            values = [value[key] for value in values]
        return float(median(values))

    def line(name: str) -> Json:
        told = {key: of(name, key) for key in ("per_second", "p50_ms", "p99_ms")}
        return told | {"generator_lag_p99_ms": of(name, "generator", "lag_p99_ms")}

    told = {"quiet": line("quiet") | {"server_cpu_ms": of("quiet", "server_cpu_ms")}}
    for name in CROWDS:
        away = {key: of(name, "refused", key) for key in found[0][name]["refused"]}
        ratio = round(median(one[name]["p50_ms"] / one["quiet"]["p50_ms"] for one in found), 3)
        told[name] = line(name) | {"latency_ratio": ratio, "refused": away}
    return told


def table(cases: Json) -> str:
    """Markdown: for each split of the cores those admitted without and with a crowd, and the crowd."""
    lines = [
        f"| {PERMITS} permits | cores | a second | p50 ms | p99 ms | within 20 ms | CPU ms | generator late, p99 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for split, case in cases.items():
        told = case["summary"]
        for name, one in told.items():
            clients = f"{PERMITS} clients" if name == "quiet" else f"{CLIENTS} clients, {_pause(CROWDS[name])}"
            lag = one["generator_lag_p99_ms"]
            cost = f"{one['server_cpu_ms']:.2f}" if "server_cpu_ms" in one else ""
            rate, p50, p99 = one["per_second"], one["p50_ms"], one["p99_ms"]
            lines.append(
                f"| admitted, {clients} | {split} | {rate:.0f} | {p50:.1f} | {p99:.1f} | | {cost} | {lag:.1f} |"
            )
            if away := one.get("refused"):
                lines.append(
                    f"| refused, {clients} | {split} | | {away['p50_ms']:.1f} | {away['p99_ms']:.1f} "
                    f"| {away['within_20_ms']:.1%} | {away['server_cpu_ms']:.2f} | {lag:.1f} |"
                )
    return "\n".join(lines) + "\n"


def _pause(seconds: float) -> str:
    return f"again after {seconds:g} s" if seconds else "again at once"
