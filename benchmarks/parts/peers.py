"""The service beside its peers: same clip, same cores, one after the other, interleaved, round after round.

The clip is one that no server has to resample, 3 s at 16 kHz, so that designs are compared and not their resamplers.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.bench import Bench, Json, NotHereError
from benchmarks.histogram import Histogram
from benchmarks.loops import closed_loop, one_by_one, open_loop
from benchmarks.peers import PEERS, Peer
from benchmarks.sounds import wav

CLIENTS = {"alone": 1, "closed": 8, "crowd": 32}
"""Of the closed loops, by their names in the results."""

SECONDS, RATE_HZ = 3.0, 16_000
"""The clip that is sent."""

RATE = 15.0
"""Of the open loop, requests per second: what the slowest of them can answer on two cores, with room."""
_LOAD_S, _SAME_S = 1.5, 2.0


def measure(bench: Bench) -> Json:
    """Every peer once a round: what it can answer, and its latency at one rate for all.

    Raises:
        NotHereError: a service elsewhere is measured, whose cores are not these.
    """
    if bench.url:
        raise NotHereError("peers are started here, and a service elsewhere has other cores")
    bench.stop()
    missing = {name: reason for name, peer in PEERS.items() if (reason := peer.why_missing())}
    for name, reason in missing.items():
        bench.say(f"{name} is left out: {reason}")
    present = [name for name in PEERS if name not in missing]
    rounds: dict[str, list[Json]] = {name: [] for name in present}
    for turn in range(bench.rounds):
        for name in present if turn % 2 == 0 else reversed(present):
            try:
                rounds[name].append(_once(bench, PEERS[name], turn))
            except (RuntimeError, OSError, EOFError) as error:  # that is a result too, and no reason to stop
                rounds[name].append({"failed": str(error)[-500:]})
            bench.say(f"round {turn + 1} of {bench.rounds}, {name}: {_told(rounds[name][-1])}")
    return {
        "clients": CLIENTS,
        "clip": {"seconds": SECONDS, "rate_hz": RATE_HZ},
        "rate": RATE,
        "missing": missing,
        "what": {name: PEERS[name].what for name in present},
        "rounds": rounds,
        "summary": summary(rounds),
    }


def _once(bench: Bench, peer: Peer, turn: int) -> Json:
    with peer.start() as server:
        way = peer.ask(server.url, [wav(SECONDS, RATE_HZ)])
        # The first request may compile and load what later ones use: it is told apart.
        first = one_by_one(way, 0.0, least=1)
        before = server.cpu_s()
        loops = {name: closed_loop(way, clients, bench.seconds(_LOAD_S)) for name, clients in CLIENTS.items()}
        cpu_ms = (server.cpu_s() - before) / max(1, sum(loop.all_requests for loop in loops.values())) * 1e3
        same = open_loop(way, RATE, bench.seconds(_SAME_S), bench.seed + turn)
        return {
            "ready_s": server.ready_s,
            "first_errors": first.outcomes.total() - first.outcomes["ok"],
            **{name: loop.to_json() for name, loop in loops.items()},
            "open": same.to_json(),
            "server_cpu_ms": round(cpu_ms, 2),
            "resident_mb": server.resident_mb(),
        }


def _told(once: Json) -> str:
    if "failed" in once:
        return f"did not start: {once['failed'].splitlines()[-1]}"
    return f"{once['closed']['per_second']:.0f}/s, at {RATE:.0f}/s p99 {once['open']['p99_ms']:.1f} ms"


def summary(rounds: dict[str, list[Json]]) -> Json:
    """Per server: medians over the rounds, percentiles of all rounds together, ratios to the first and their spread.

    A ratio is theirs to ours, round by round: [median, lowest, highest].
    """
    first = next(iter(rounds.values()))
    lines: Json = {}
    for name, found in rounds.items():
        pairs = [
            (one, ours) for one, ours in zip(found, first, strict=True) if "failed" not in one and "failed" not in ours
        ]
        if not pairs:
            lines[name] = {"failed": found[0].get("failed", "this service did not start")}
            continue
        once = [one for one, _ in pairs]
        same = Histogram.merged(one["open"]["hdr"] for one in once)
        lines[name] = {
            "rounds": len(once),
            "per_second": round(median(one["closed"]["per_second"] for one in once), 2),
            "p50_ms": same.ms(50),
            "p99_ms": same.ms(99),
            "requests_at_rate": len(same),
            "resident_mb": median(one["resident_mb"] for one in once),
            "server_cpu_ms": median(one["server_cpu_ms"] for one in once),
            "ready_s": median(one["ready_s"] for one in once),
            "crowd_per_second": round(median(one["crowd"]["per_second"] for one in once), 2),
            "alone_ms": median(one["alone"]["p50_ms"] for one in once),
            "errors": sum(one[kind]["errors"] for one in once for kind in (*CLIENTS, "open")),
            "bottleneck": next(
                (
                    told
                    for one in once
                    for kind in ("closed", "crowd")
                    if (told := one[kind]["generator"]["bottleneck"])
                ),
                "",
            ),
            "ratios": {
                "per_second": spread(
                    [one["closed"]["per_second"] / ours["closed"]["per_second"] for one, ours in pairs]
                ),
                "crowd": spread([one["crowd"]["per_second"] / ours["crowd"]["per_second"] for one, ours in pairs]),
                "alone": spread([one["alone"]["p50_ms"] / ours["alone"]["p50_ms"] for one, ours in pairs]),
                "p50": spread([one["open"]["p50_ms"] / ours["open"]["p50_ms"] for one, ours in pairs]),
                "p99": spread([one["open"]["p99_ms"] / ours["open"]["p99_ms"] for one, ours in pairs]),
                "memory": spread([one["resident_mb"] / ours["resident_mb"] for one, ours in pairs]),
            },
        }
    return lines


def spread(ratios: Sequence[float]) -> list[float]:
    """Median, lowest, highest."""
    return [round(value, 3) for value in (median(ratios), min(ratios), max(ratios))]
