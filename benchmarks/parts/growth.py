"""How the cost grows: with the length of a clip, and with its sample rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np

from benchmarks.bench import Bench, Json
from benchmarks.load import Load
from benchmarks.loops import one_by_one
from benchmarks.parts.stages import STAGES, mean_ms
from benchmarks.rounds import in_turn, spread, told
from benchmarks.sounds import encode, voice
from benchmarks.target import MULTIPART, NotHereError, Target, change

LENGTHS_S = (1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 600.0)
RATES_HZ = (8_000, 16_000, 22_050, 24_414, 32_000, 44_100, 48_000, 96_000)
_LENGTHS_AT_HZ, _RATES_AT_S = 16_000, 3.0
_LOAD_S = 0.3
_LEAST = 1
"""Requests of a round beside the one that warms up, however long a clip is."""
_VOICE_S = 30.0
"""Longer clips say the same again: making ten minutes takes longer than hearing them."""

_Round = tuple[Load, Json]


def measure(bench: Bench) -> Json:
    """One client, made-up voices as 16-bit WAV: ms, processor time and stages of a request; and of the bench's clips.

    All are asked in turn, round after round: they are there to be compared.
    """
    lengths = {(length, _LENGTHS_AT_HZ): _clip(length, _LENGTHS_AT_HZ) for length in LENGTHS_S}
    rates = {(_RATES_AT_S, rate): _clip(_RATES_AT_S, rate) for rate in RATES_HZ}
    sent = {name: [data] for name, data in (lengths | rates).items()} | {(0.0, 0): bench.data}
    rounds = in_turn({name: _asking(bench, clips) for name, clips in sent.items()}, bench.rounds)
    costs = {name: _cost(found) for name, found in rounds.items()}
    for (seconds, rate_hz), cost in costs.items():
        bench.say(f"{f'{seconds:g} s at {rate_hz} Hz' if seconds else 'the clips'}: p50 {cost['p50_ms']:.1f} ms")

    def line(name: tuple[float, int]) -> Json:
        per_second = round(name[0] / costs[name]["mean_ms"] * 1e3, 1)
        return {"bytes": len(sent[name][0]), "times_real_time": per_second, **costs[name]}

    each, fixed = line_through([(seconds, costs[seconds, rate]["mean_ms"]) for seconds, rate in lengths])
    bench.say(f"a request takes {fixed:.1f} ms and {each:.2f} ms per second of speech")
    return {
        "lengths": [{"seconds": name[0], **line(name)} for name in lengths],
        "rates": [{"rate_hz": name[1], **line(name)} for name in rates],
        "clips": costs[0.0, 0],
        "line": {"fixed_ms": round(fixed, 3), "ms_per_second_of_speech": round(each, 4)},
    }


def line_through(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Of (seconds, ms): what each second of speech takes, and what is fixed, ms.

    Weights are 1 / ms: points are off by a share of themselves, and ten minutes shall not say what one second costs.
    """
    seconds, ms = np.array(points).T
    each, fixed = np.polyfit(seconds, ms, 1, w=1 / ms)
    return float(each), float(fixed)


def _clip(seconds: float, rate_hz: int) -> bytes:
    sound = voice(min(seconds, _VOICE_S), rate_hz)
    return encode(np.resize(sound, round(seconds * rate_hz)), rate_hz)


def _asking(bench: Bench, clips: Sequence[bytes]) -> Callable[[], _Round]:
    target = bench.service()
    return partial(_asked, target, clips, bench.seconds(_LOAD_S))


def _asked(target: Target, clips: Sequence[bytes], seconds: float) -> _Round:
    """One client, and what the service says that its requests took; why it says nothing, where it does not."""
    way, least = target.transports(clips)[MULTIPART], max(_LEAST, len(clips))
    try:
        before, cpu = target.samples(), target.cpu_s()
        load = one_by_one(way, seconds, least)
        cpu_ms = (target.cpu_s() - cpu) / (load.all_requests + 1) * 1e3  # one warms up
        counted = change(before, target.samples())
    except NotHereError as reason:
        return one_by_one(way, seconds, least), {"no_stages": str(reason)}
    return load, {"server_cpu_ms": cpu_ms, "stages_ms": {stage: mean_ms(counted, stage) for stage in STAGES}}


def _cost(rounds: Sequence[_Round]) -> Json:
    """The rounds of one clip as one: medians of what differs between them, all latencies together."""
    spent = [more for _, more in rounds]
    reason = next((more["no_stages"] for more in spent if "no_stages" in more), "")
    load = told([load for load, _ in rounds])
    cost = {key: load[key] for key in ("requests", "errors", "p50_ms", "p99_ms", "mean_ms", "generator")}
    if reason:
        return {**cost, "server_cpu_ms": None, "server_cpu_spread": None, "stages_ms": {}, "no_stages": reason}
    middle, lowest, highest = spread([more["server_cpu_ms"] for more in spent])
    stages_ms = {stage: round(median(more["stages_ms"][stage] for more in spent), 3) for stage in STAGES}
    return {
        **cost,
        "server_cpu_ms": middle,
        "server_cpu_spread": [lowest, highest],
        "stages_ms": stages_ms,
        "no_stages": "",
    }
