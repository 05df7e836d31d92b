"""How the cost grows: with the length of a clip, and with its sample rate."""

from __future__ import annotations

import numpy as np

from benchmarks.bench import Bench, Json
from benchmarks.load import Load, Transport
from benchmarks.loops import one_by_one
from benchmarks.parts.stages import STAGES, mean_ms
from benchmarks.sounds import wav
from benchmarks.target import MULTIPART, NotHereError, Target, change

LENGTHS_S = (1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 600.0)
RATES_HZ = (8_000, 16_000, 22_050, 24_414, 32_000, 44_100, 48_000, 96_000)
_LENGTHS_AT_HZ, _RATES_AT_S = 16_000, 3.0
_LOAD_S = 0.6


def measure(bench: Bench) -> Json:
    """One client, made-up voices as 16-bit WAV: ms, processor time and stages of a request."""
    lengths = [{"seconds": length, **_cost(bench, length, _LENGTHS_AT_HZ)} for length in LENGTHS_S]
    rates = [{"rate_hz": rate, **_cost(bench, _RATES_AT_S, rate)} for rate in RATES_HZ]
    each, fixed = line_through([(line["seconds"], line["mean_ms"]) for line in lengths])
    bench.say(f"a request takes {fixed:.1f} ms and {each:.2f} ms per second of speech")
    return {
        "lengths": lengths,
        "rates": rates,
        "line": {"fixed_ms": round(fixed, 3), "ms_per_second_of_speech": round(each, 4)},
    }


def line_through(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Of (seconds, ms): what each second of speech takes, and what is fixed, ms.

    Weights are 1 / ms: points are off by a share of themselves, and ten minutes shall not say what one second costs.
    """
    seconds, ms = np.array(points).T
    each, fixed = np.polyfit(seconds, ms, 1, w=1 / ms)
    return float(each), float(fixed)


def _cost(bench: Bench, seconds: float, rate_hz: int) -> Json:
    target = bench.service()
    clip = wav(seconds, rate_hz)
    load, spent = _asked(target, target.transports([clip])[MULTIPART], bench.seconds(_LOAD_S))
    told = load.to_json()
    bench.say(
        f"{seconds:g} s at {rate_hz} Hz: p50 {told['p50_ms']:.1f} ms, "
        f"{seconds / told['mean_ms'] * 1e3:.0f} times real time"
    )
    return {
        "bytes": len(clip),
        "requests": told["requests"],
        "errors": told["errors"],
        **{key: told[key] for key in ("p50_ms", "p99_ms", "mean_ms")},
        "times_real_time": round(seconds / told["mean_ms"] * 1e3, 1),
        **spent,
    }


def _asked(target: Target, way: Transport, seconds: float) -> tuple[Load, Json]:
    """One client, and what the service says that its requests took; why it says nothing, where it does not."""
    try:
        before, cpu = target.samples(), target.cpu_s()
        load = one_by_one(way, seconds)
        cpu_ms = (target.cpu_s() - cpu) / (load.all_requests + 1) * 1e3  # one warms up
        counted = change(before, target.samples())
    except NotHereError as reason:
        return one_by_one(way, seconds), {"server_cpu_ms": None, "stages_ms": {}, "no_stages": str(reason)}
    stages_ms = {stage: round(mean_ms(counted, stage), 3) for stage in STAGES}
    return load, {"server_cpu_ms": round(cpu_ms, 2), "stages_ms": stages_ms, "no_stages": ""}
