"""The service beside its peers: same clip, same cores, one after the other, interleaved, round after round.

The clip is one that no server has to resample, 3 s at 16 kHz, so that designs are compared and not their resamplers.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from statistics import median

from benchmarks.bench import Bench, Json
from benchmarks.histogram import FEWEST, Histogram
from benchmarks.load import OK, Transport
from benchmarks.loops import closed_loop, one_by_one, open_loop
from benchmarks.peers import PEERS, Peer
from benchmarks.process import Server
from benchmarks.rounds import spread
from benchmarks.sounds import wav
from benchmarks.target import NotHereError

CLIENTS = {"alone": 1, "closed": 8, "crowd": 32}
"""Of the closed loops, by their names in the results."""

LOADS = (*CLIENTS, "open")
"""All that a round has."""

SECONDS, RATE_HZ = 3.0, 16_000
"""The clip that is sent."""

RATE = 40.0
"""Of the open loop, requests per second: what the slowest one, classic, still answers on two cores, and enough for a
p99 of each round.
"""
_LOAD_S, _SAME_S, _CHOICE_S = 1.0, 3.0, 0.7
_ANSWER_S = 60.0
_ERROR = re.compile(r"[\w.]+(Error|Exception|Timeout)\b")

FIGURES = {
    "per_second": ("closed", "per_second"),
    "crowd": ("crowd", "per_second"),
    "alone": ("alone", "p50_ms"),
    "p50": ("open", "p50_ms"),
    "p99": ("open", "p99_ms"),
}
"""What is quoted: of which load, and what of it."""


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
    chosen = {name: chosen_settings(bench, PEERS[name]) for name in present if PEERS[name].choices}
    rounds: dict[str, list[Json]] = {name: [] for name in present}
    for turn in range(bench.rounds):
        for name in present if turn % 2 == 0 else reversed(present):
            try:
                rounds[name].append(_once(bench, PEERS[name], turn, chosen.get(name, {}).get("taken", "")))
            except (RuntimeError, OSError, EOFError) as error:  # that is a result too, and no reason to stop
                rounds[name].append({"failed": str(error)[-500:]})
            bench.say(f"round {turn + 1} of {bench.rounds}, {name}: {_told(rounds[name][-1])}")
    return {
        "clients": CLIENTS,
        "clip": {"seconds": SECONDS, "rate_hz": RATE_HZ},
        "rate": RATE,
        "missing": missing,
        "what": {name: PEERS[name].what for name in present},
        "settings": chosen,
        "rounds": rounds,
        "summary": summary(rounds),
    }


def chosen_settings(bench: Bench, peer: Peer) -> Json:
    """Which of a peer's settings is the best for it: all run side by side and are asked in turn, alone and by several.

    The best has the highest product of both rates. Empty where one of them does not start.
    """
    answered: dict[str, dict[str, list[float]]] = {name: {"alone": [], "closed": []} for name in peer.choices}
    try:
        with ExitStack() as stack:
            servers = {name: stack.enter_context(peer.start(**env)) for name, env in peer.choices.items()}
            ways = {name: peer.ask(server.url, [wav(SECONDS, RATE_HZ)]) for name, server in servers.items()}
            for name, server in servers.items():
                answering(ways[name], server)
            for turn in range(bench.rounds):
                for name in ways if turn % 2 == 0 else reversed(ways):
                    for kind, told in answered[name].items():
                        told.append(closed_loop(ways[name], CLIENTS[kind], bench.seconds(_CHOICE_S)).per_second)
    except (RuntimeError, OSError, EOFError):  # the rounds say so
        return {}
    rates = {name: {kind: round(median(rates), 2) for kind, rates in told.items()} for name, told in answered.items()}
    taken = max(rates, key=lambda name: rates[name]["alone"] * rates[name]["closed"])
    bench.say(f"{peer.what}: {rates}, taken: {taken}")
    return {"taken": taken, "per_second": rates}


def answering(way: Transport, server: Server) -> float:
    """Ask until a request is answered well; seconds from the server's start to then.

    What a first request compiles and loads is in it, and the time of one that says too early that it is ready.

    Raises:
        RuntimeError: nothing is answered well in _ANSWER_S.
    """
    began = time.monotonic()
    while (waited_s := time.monotonic() - began) < _ANSWER_S:
        with suppress(OSError, EOFError):
            if one_by_one(way, 0.0, least=1).outcomes[OK]:
                return round(server.ready_s + time.monotonic() - began, 2)
        time.sleep(0.05)
    raise RuntimeError(f"{server.url} says that it is ready, and answers no request well within {waited_s:.0f} s.")


def _once(bench: Bench, peer: Peer, turn: int, choice: str) -> Json:
    with peer.start(**peer.choices.get(choice, {})) as server:
        way = peer.ask(server.url, [wav(SECONDS, RATE_HZ)])
        ready_s = answering(way, server)
        before = server.cpu_s()
        loops = {name: closed_loop(way, clients, bench.seconds(_LOAD_S)) for name, clients in CLIENTS.items()}
        cpu_ms = (server.cpu_s() - before) / max(1, sum(loop.all_requests for loop in loops.values())) * 1e3
        loops["open"] = open_loop(way, RATE, bench.seconds_at(RATE, _SAME_S), bench.seed + turn)
        told = {name: loop.to_json() for name, loop in loops.items()}
        return {
            "ready_s": ready_s,
            **told,
            "server_cpu_ms": round(cpu_ms, 2),
            "resident_mb": server.resident_mb(),
            "log": server.printed() if any(load["errors"] for load in told.values()) else "",
        }


def _told(once: Json) -> str:
    if "failed" in once:
        return f"did not start: {once['failed'].splitlines()[-1]}"
    return f"{once['closed']['per_second']:.0f}/s, at {RATE:.0f}/s p99 {once['open']['p99_ms']:.1f} ms"


def summary(rounds: dict[str, list[Json]]) -> Json:
    """Per server: medians over the rounds, percentiles of all rounds together, ratios to the first and their spread.

    A ratio is theirs to ours, round by round: [median, lowest, highest]. A round in which the load generator was the
    bottleneck of theirs or of ours, or too few requests came, is left out of that measure, and ``left_out`` says so.
    Where no more than half of them remain there is None, and ``not_quoted`` says why.
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
        theirs = [one for one, _ in pairs]
        lines[name] = {
            "rounds": len(pairs),
            "figures": {measure: _figure(theirs, measure) for measure in FIGURES},
            "ratios": {measure: _ratio(pairs, measure) for measure in FIGURES}
            | {"memory": spread([one["resident_mb"] / other["resident_mb"] for one, other in pairs], 3)},
            "left_out": {},
            "not_quoted": {},
            "resident_mb": median(one["resident_mb"] for one in theirs),
            "server_cpu_ms": median(one["server_cpu_ms"] for one in theirs),
            "ready_s": median(one["ready_s"] for one in theirs),
            "errors": sum(one[kind]["errors"] for one in theirs for kind in LOADS),
            "failures": failures(theirs),
        }
        for measure in FIGURES:
            whys = [why for pair in pairs if (why := _limit(pair, measure))]
            told = "left_out" if lines[name]["ratios"][measure] else "not_quoted"
            if whys:
                lines[name][told][measure] = f"{len(whys)} of {len(pairs)} rounds: {whys[0]}"
    return lines


def failures(theirs: Sequence[Json]) -> Json:
    """How many requests of a server's rounds ended in each way that is no good answer, and what explains the first.

    ``said`` is what the client was told, ``logged`` the last error in what the server had printed by then.
    """
    counts: Counter[str] = Counter()
    said: dict[str, str] = {}
    logged: dict[str, str] = {}
    for one in theirs:
        for load in (one[kind] for kind in LOADS):
            for outcome in load["outcomes"].keys() - {OK}:
                counts[outcome] += load["outcomes"][outcome]
                said.setdefault(outcome, load["said"].get(outcome, ""))
                logged.setdefault(outcome, last_error(one["log"]))
    return {name: {"requests": n, "said": said[name], "logged": logged[name]} for name, n in counts.items()}


def last_error(log: str) -> str:
    """The last line of a log that names an exception, as Python prints one; empty where none does."""
    return next((line for line in reversed(log.splitlines()) if _ERROR.match(line)), "")


def _figure(theirs: Sequence[Json], measure: str) -> float | None:
    """A server's own figure, of the rounds that can be quoted; None where they are not most of them."""
    kind, key = FIGURES[measure]
    kept = [one[kind] for one in theirs if not _limit([one], measure)]
    if 2 * len(kept) <= len(theirs):
        return None
    if kind == "open":
        together = Histogram.merged(one["hdr"] for one in kept).to_json()
        return float(together[key])
    return round(float(median(one[key] for one in kept)), 3)


def _ratio(pairs: Sequence[tuple[Json, Json]], measure: str) -> list[float] | None:
    """Theirs to ours, of the rounds that can be quoted; None where they are not most of them."""
    kind, key = FIGURES[measure]
    kept = [one[kind][key] / ours[kind][key] for one, ours in pairs if not _limit([one, ours], measure)]
    return spread(kept, 3) if 2 * len(kept) > len(pairs) else None


def _limit(once: Sequence[Json], measure: str) -> str:
    """Why a measure of one round says nothing of these servers; empty where it does."""
    kind, key = FIGURES[measure]
    fewest = min(one[kind]["outcomes"].get(OK, 0) for one in once)
    late = next(filter(None, (one[kind]["generator"]["bottleneck"] for one in once)), "")
    return late or (f"{fewest} good answers are too few" if fewest < FEWEST.get(key, 1) else "")
