"""Half an hour at 70 % of capacity: latency and memory over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.bench import Bench, Json
from benchmarks.loops import open_loop
from benchmarks.record import write
from benchmarks.run import file_name, free

_WINDOW_S = 30.0


def soak(bench: Bench, out: Path, seconds: float, share: float = 0.7) -> Path:
    """An open loop that goes on, written down window by window, so that what was measured of a stopped one is there.

    Args:
        seconds: all together.
        share: of what a short closed loop answers.
    """
    path = free(out, f"{file_name(bench.url)}-soak")
    settings: Json = {"url": bench.url, "seconds": seconds, "share": share, "seed": bench.seed}
    settings["clips"] = [clip.to_json() for clip in bench.sent]
    windows: list[Json] = []
    try:
        target = bench.service()
        highest = bench.highest()
        settings |= {"capacity": round(highest.per_second, 2), "not_quoted": highest.not_quoted}
        rate = share * highest.per_second
        bench.say(f"{rate:.0f} requests/s for {seconds:g} s{': of ' * bool(highest.not_quoted)}{highest.not_quoted}")
        way = bench.multipart()
        lasted = 0.0
        while lasted < seconds:
            window_s = min(_WINDOW_S, seconds - lasted)
            # Windows follow one another without a pause, save for what is still under way.
            load = open_loop(way, rate, window_s, bench.seed + len(windows), warm_s=0.0).to_json()
            lasted += window_s
            resident_mb = None if target.mixed else target.resident_mb()
            windows.append({"until_s": round(lasted, 1), "resident_mb": resident_mb, **load})
            bench.say(
                f"{lasted:.0f} s: p50 {load['p50_ms']:.1f}, p99 {load['p99_ms']:.1f} ms, "
                f"{load['errors']} errors, {target.mixed or f'{resident_mb:.0f} MB'}"
            )
            write(
                path, {"settings": settings, "rate": round(rate, 2), **summary(windows), "windows": windows}, bench.seed
            )
    finally:
        bench.stop()
    return path


def summary(windows: list[Json]) -> Json:
    """Errors, and what memory and p99 do from the second tenth of the time on: MB and ms per hour."""
    later = windows[len(windows) // 10 :]
    hours = [window["until_s"] / 3600 for window in later]
    slopes = {
        f"{name}_per_hour": round(float(np.polyfit(hours, [window[key] for window in later], 1)[0]), 3)
        for name, key in (("mb", "resident_mb"), ("p99_ms", "p99_ms"))
        if len(later) > 1 and later[0][key] is not None
    }
    return {
        "requests": sum(window["requests"] for window in windows),
        "errors": sum(window["errors"] for window in windows),
        **slopes,
    }
