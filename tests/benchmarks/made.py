"""Results as a run would have written them, made here: for the report, the guard and the page on capacity."""

from __future__ import annotations

from functools import cache
from typing import Any

from benchmarks.bench import Bench
from benchmarks.clips import clips
from benchmarks.histogram import Histogram
from benchmarks.parts.peers import summary

Json = dict[str, Any]

MACHINE = "Some Processor @ 2.50GHz, 2 cores, Linux x86_64"


def quiet(**options: Any) -> Bench:
    """A short run of two short clips that says nothing."""
    return Bench(**{"scale": 0.1, "sent": clips()[-2:], "say": lambda _: None, **options})


def load(per_second: float, ms: float, **more: Any) -> Json:
    """What ``Load.to_json`` tells."""
    own = {"core_share": 0.05, "lag_p50_ms": 0.1, "lag_p99_ms": 0.4, "bottleneck": ""}
    latencies = {"mean_ms": ms, **_percentiles(ms)}
    counts = {
        "spread": [0.9 * per_second, 1.1 * per_second],
        "seconds": 2.0,
        "requests": 100,
        "errors": 0,
        "outcomes": {"ok": 100},
        "said": {},
    }
    return {**counts, "per_second": per_second, **latencies, "generator": own, **more}


@cache
def _percentiles(ms: float) -> Json:
    """Kept, since a histogram takes long to make and results have dozens."""
    return Histogram([ms / 1e3] * 99 + [ms / 250]).to_json()


def once(per_second: float, ms: float, memory: float) -> Json:
    """One round of one peer."""
    figures = {"server_cpu_ms": 5.0, "resident_mb": memory, "ready_s": 2.0, "log": ""}
    loops = {"alone": load(per_second / 2, ms, clients=1), "closed": load(per_second, 30.0, clients=8)}
    loops["crowd"] = load(per_second, 90.0, clients=32)
    return {**figures, **loops, "open": load(40.0, ms, rate=40.0)}


def results() -> Json:
    """Every part; the classic peer a quarter as fast, another one with less memory."""
    rounds = {
        "timbre": [once(200, 8.0, 200), once(240, 9.0, 200), once(220, 8.5, 200)],
        "classic": [once(50, 30.0, 500), once(60, 33.0, 500), once(55, 30.0, 500)],
        "fastapi_onnx": [once(180, 10.0, 110), once(200, 11.0, 110), once(190, 10.0, 110)],
    }
    shares = [
        {"transport": "HTTP multipart", "share": s, "share_not_quoted": "", **load(200 * s, 9.0, rate=200 * s)}
        for s in (0.1, 0.9)
    ]
    closed = [load(120, 8.0, clients=1), load(200, 40.0, clients=8)]
    capacity = {"highest_seen": 200, "per_second": 200, "clients": 8, "not_quoted": "", "loads": closed}
    stages = {"decode": 2.0, "queue": 1.0, "batch": 0.0, "inference": 6.0, "pipeline": 0.5, "around": 2.5}
    cost: Json = {"p50_ms": 9.0, "p99_ms": 12.0, "mean_ms": 9.5, "server_cpu_ms": 8.0, "times_real_time": 300.0}
    cost |= {"bytes": 96_044, "requests": 50, "errors": 0, "stages_ms": stages, "no_stages": ""}
    cost |= {"generator": load(100, 9.0)["generator"], "server_cpu_spread": [7.0, 9.5]}
    batches = {"device": "cpu", "setting": "as it is", "mean_windows": 2.5, "windows": {"1": 3, "4": 9}, "reasons": {}}
    held = {"rate": 100.0, "capacity": 125.0, "p99_ms": 48.0, "arrivals": 20_000}
    return {
        "provenance": {
            "machine": MACHINE,
            "date": "2026-01-02T03:04:05+00:00",
            "command": "make it",
            "commit": "a" * 40,
        },
        "settings": {"url": "", "scale": 1.0, "rounds": 3, "seed": 0},
        "clips": [
            {"name": "a.wav", "seconds": 3.0, "rate_hz": 48_000, "sha256": "a" * 64},
            {"name": "b.wav", "seconds": 2.0, "rate_hz": 24_414, "sha256": "b" * 64},
        ],
        "model": {"version": "2", "sha256": "c" * 64},
        "parts": {
            "capacity": {
                "transports": {"HTTP multipart": capacity},
                "silent": {},
                "held": {"p99_ms": 50.0, "rate": 150.0, "not_quoted": "", "probes": []},
            },
            "latency": {"silent": {}, "loads": shares},
            "growth": {
                "lengths": [
                    {"seconds": s, **cost, "server_cpu_ms": cpu_ms, "p50_ms": cpu_ms + 1}
                    for s, cpu_ms in ((1.0, 4.0), (3.0, 8.0), (60.0, 120.0))
                ],
                "rates": [{"rate_hz": r, **cost} for r in (8_000, 48_000)],
                "clips": {**cost, "server_cpu_ms": 10.0},
                "line": {"fixed_ms": 4.0, "ms_per_second_of_speech": 2.0},
            },
            "profile": {
                "server_cpu_ms_per_request": 6.0,
                "shares": {"decoding": 0.25, "other": 0.75},
                "threads_ms": {"MainThread": 4.5, "decode": 1.5},
            },
            "size": {
                "memory": {
                    "idle_mb": 180.0,
                    "after_mb": 200.0,
                    "points": [{"requests": 10_000, "resident_mb": 200.0}],
                    "growth_mb_per_1000": 0.01,
                },
                "start": [{"cache": "cold", "ready_s": 3.0, "read_mb": 90.0, "idle_mb": 180.0}],
            },
            "stages": {
                "load": load(100, 10.0, rate=100.0),
                "stages_ms": stages,
                "no_stages": "",
                "floor": [load(2000, 0.4, clients=1)],
                "roof": {
                    "device": "cpu",
                    "per_second": 250.0,
                    "spread": [240.0, 260.0],
                    "decode_ms": 2.0,
                    "inference_ms": 6.0,
                },
                "achieved": 0.8,
                "achieved_spread": [0.75, 0.83],
                "not_quoted": "",
            },
            "batching": {"loads": [{**batches, **load(200, 30.0, clients=8)}], "no_cuda": "no CUDA: no device"},
            "replicas": {
                "arrivals": "Poisson",
                "balance": "round robin",
                "p99_ms": 50.0,
                "pause_ms": 50.0,
                "service_ms": [8.0, 8.0],
                "replicas": [
                    {
                        "replicas": 1,
                        "simulated": held,
                        "measured": {"rate": 90.0, "not_quoted": ""},
                        "why_not_measured": "",
                    },
                    {"replicas": 2, "simulated": held, "measured": None, "why_not_measured": "too few cores"},
                ],
            },
            "offline": {
                "front_end": {"ours_ms": 2.0, "librosa_ms": 5.0, "times_as_fast": 2.5, "largest_difference": 1e-4},
                "network": [
                    {
                        "version": "2",
                        "precision": name,
                        "megabytes": 1.5,
                        "threads": 1,
                        "batch": n,
                        "ms_per_window": 3.0,
                    }
                    for name in ("fp32", "int8")
                    for n in (1, 32)
                ],
                "decode": [{"format": "MP3", "bytes": 12_000, "ms": 1.5}],
                "resample": [{"rate_hz": 48_000, "ms": 0.7}],
            },
            "peers": {
                "clients": {"alone": 1, "closed": 8, "crowd": 32},
                "clip": {"seconds": 3.0, "rate_hz": 16_000},
                "rate": 40.0,
                "missing": {"mlserver_onnx": "it did not install: no wheel"},
                "what": {"timbre": "this service", "classic": "the usual one", "fastapi_onnx": "FastAPI, no batching"},
                "settings": {"classic": {"taken": "one thread"}},
                "rounds": rounds,
                "summary": summary(rounds),
            },
        },
    }
