"""How soon a measurement of live audio is out: streams of speech in real time, service and sender on the same cores."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.peers import timbre
from benchmarks.process import HOST, Server, free_port
from benchmarks.record import write
from benchmarks.sounds import monologue
from benchmarks.streams import GrpcLine, Line, Paced, SocketLine, converse, frames_of

STREAMS = (1, 5, 10, 20, 40)
IN_STEP = 20
"""So many are sent in step too, all with the same words: every measurement is due at the moment of all the others'."""
WITHIN_MS = 150
CORES = 2

_RATE_HZ = 16_000
_PITCHES = (30, 45, 60, 75, 90)  # of espeak-ng's voice
_SEED = 0
_SPREAD_S = 1.5  # within which the others begin, each when it likes

Json = dict[str, Any]
Ways = dict[str, tuple[type[Line], str]]
"""By its name: how a stream is carried, and to which address."""


@dataclass(frozen=True)
class Case:
    """A number of streams over one transport; in step or each with a beginning and words of its own."""

    way: str
    streams: int
    in_step: bool = False


def live(out: Path, rounds: int, seconds: float, streams: Sequence[int] = STREAMS, in_step: int = IN_STEP) -> Json:
    """Measure every case once a round; write live.json and live.md; returns the results.

    Args:
        seconds: of speech that each stream sends.
    """
    said = [frames_of(_pcm(seconds, pitch), _RATE_HZ) for pitch in _PITCHES]
    loads = [*((count, False) for count in streams), (in_step, True)]
    found: dict[Case, list[Json]] = {Case(way, *load): [] for way in ("WebSocket", "gRPC") for load in loads}
    with _on_cores(CORES) as cores:
        for turn in range(rounds):
            grpc_port = free_port()
            with timbre(grpc_port=grpc_port) as server:
                ways: Ways = {
                    "WebSocket": (SocketLine, f"{HOST}:{server.port}"),
                    "gRPC": (GrpcLine, f"{HOST}:{grpc_port}"),
                }
                asyncio.run(_everyone(*ways["gRPC"], said[:1], [0.0]))  # the first stream reads the detector from disk
                for case, measured in found.items():
                    print(f"round {turn + 1} of {rounds}: {_named(case)}", flush=True)
                    measured.append(_measure(server, ways, case, said))
    results: Json = {
        "rounds": rounds,
        "seconds": seconds,
        "seed": _SEED,
        "cores": cores,
        "within_ms": WITHIN_MS,
        "cases": [{**asdict(case), **summary(measured)} for case, measured in found.items()],
    }
    write(out / "live.json", results)
    (out / "live.md").write_text(table(results))
    return results


def _pcm(seconds: float, pitch: int) -> bytes:
    return np.round(monologue(seconds, _RATE_HZ, pitch) * 32_767).astype("<i2").tobytes()


def _measure(server: Server, ways: Ways, case: Case, said: Sequence[Sequence[bytes]]) -> Json:
    """One load: what was late, what was missing, and how many cores both sides took."""
    chance = random.Random(_SEED)
    begins_s = [0.0 if case.in_step else chance.uniform(0, _SPREAD_S) for _ in range(case.streams)]
    texts = [said[0] if case.in_step else _rotated(said[n % len(said)], chance) for n in range(case.streams)]
    began, server_cpu_s, own_cpu_s = time.monotonic(), server.cpu_s(), time.process_time()
    everyone = asyncio.run(_everyone(*ways[case.way], texts, begins_s))
    took_s = time.monotonic() - began
    return {
        "late_s": [seconds for paced in everyone for seconds in paced.late],
        "overdue_s": [seconds for paced in everyone for seconds in paced.overdue],
        "missing": sum(missing(paced.messages) for paced in everyone),
        "errors": sum(message["type"] == "error" for paced in everyone for message in paced.messages),
        "server_cores": (server.cpu_s() - server_cpu_s) / took_s,
        "sender_cores": (time.process_time() - own_cpu_s) / took_s,
    }


def _rotated(frames: Sequence[bytes], chance: random.Random) -> list[bytes]:
    place = chance.randrange(len(frames))
    return [*frames[place:], *frames[:place]]


async def _everyone(
    line: type[Line], address: str, texts: Sequence[Sequence[bytes]], begins_s: Sequence[float]
) -> list[Paced]:
    streams = zip(texts, begins_s, strict=True)
    return await asyncio.gather(
        *(converse(line, address, frames, _RATE_HZ, after_s=begin_s) for frames, begin_s in streams)
    )


def missing(messages: Sequence[Json]) -> int:
    """Measurements that a stream's utterances lack: there is one for each hop within them."""
    hop_s, lacking = messages[0]["hop_s"], 0
    for end in (message for message in messages if message["type"] == "utterance.end"):
        came = sum(one["type"] == "measurement" and one["utterance"] == end["utterance"] for one in messages)
        lacking += max(0, int(round(end["end_s"] - end["start_s"], 6) / hop_s) - came)
    return lacking


def summary(measured: Sequence[Json]) -> Json:
    """All rounds of a case together, times in ms; and the 99th percentile of each round."""
    late = np.concatenate([one["late_s"] for one in measured])
    overdue = np.concatenate([one["overdue_s"] for one in measured])
    return {
        "measurements": len(late),
        "missing": sum(one["missing"] for one in measured),
        "errors": sum(one["errors"] for one in measured),
        "late_ms": _ms(late),
        "within": round(float(np.mean(1e3 * late <= WITHIN_MS)), 4),
        "p99_ms_of_rounds": [_ms(np.array(one["late_s"]))["p99"] for one in measured],
        "sender_late_ms": _ms(overdue),
        **{who: round(median(one[who] for one in measured), 3) for who in ("server_cores", "sender_cores")},
    }


def _ms(seconds: np.ndarray) -> dict[str, float]:
    names = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    return {name: round(1e3 * float(np.percentile(seconds, share)), 1) for name, share in names.items()}


def _named(case: Case) -> str:
    return f"{case.streams} stream{'s' if case.streams > 1 else ''}{' in step' if case.in_step else ''} by {case.way}"


def table(results: Json) -> str:
    """Markdown: one line per case."""
    text = (
        f"| streams | by | measurements | p50 ms | p95 ms | p99 ms | most ms | within {results['within_ms']} ms | "
        "missing, errors | sender late, p99 ms | cores: service, sender |\n"
    )
    text += "|---|---|---|---|---|---|---|---|---|---|---|\n"
    for case in results["cases"]:
        late = " | ".join(f"{value:.0f}" for value in case["late_ms"].values())
        text += (
            f"| {case['streams']}{' in step' if case['in_step'] else ''} | {case['way']} | {case['measurements']} | "
            f"{late} | {case['within']:.1%} | {case['missing']}, {case['errors']} | "
            f"{case['sender_late_ms']['p99']:.0f} | {case['server_cores']:.2f}, {case['sender_cores']:.2f} |\n"
        )
    return text


@contextmanager
def _on_cores(most: int) -> Iterator[int]:
    """This process and what it starts on so many cores, where there are more; yields how many there are."""
    before = os.sched_getaffinity(0)
    chosen = sorted(before)[:most]
    os.sched_setaffinity(0, chosen)
    try:
        yield len(chosen)
    finally:
        os.sched_setaffinity(0, before)
