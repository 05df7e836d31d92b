"""Plots of a results file, PNG and SVG, beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.histogram import Histogram
from benchmarks.load import quoted
from benchmarks.tables import HIGHER_IS_BETTER

Json = dict[str, Any]

_PERCENTILES = (0, 50, 75, 90, 95, 99, 99.5, 99.9)


def plot(found: Json, results: Path) -> list[Path]:
    """Draw every part that was measured; returns the files."""
    drawn = []
    for name, (width, height, draw) in _PLOTS.items():
        part = found["parts"].get(name)
        if part is None or "left_out" in part:
            continue
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(part, figure)
        drawn += _save(figure, results, name)
    return drawn


def plot_soak(results: Path) -> list[Path]:
    """p99 and memory over time."""
    windows = json.loads(results.read_text())["windows"]
    minutes = [window["until_s"] / 60 for window in windows]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for key in ("p50_ms", "p99_ms"):
        above.plot(minutes, [_drawn(window, key) for window in windows], marker=".", label=key.split("_")[0])
    above.set(ylabel="latency, ms", ylim=(0, None))
    above.legend(frameon=False)
    below.plot(minutes, [window["resident_mb"] or math.nan for window in windows], marker=".")
    below.set(ylabel="memory, MB", xlabel="minutes", ylim=(0, None))
    for axes in (above, below):
        axes.grid(alpha=0.3)
    return _save(figure, results, "over-time")


def _drawn(load: Json, key: str) -> float:
    """A percentile, ms; a gap where it is not quoted."""
    ms = quoted(load, key)
    return math.nan if ms is None else ms


def _save(figure: Figure, results: Path, name: str) -> list[Path]:
    files = [results.with_name(f"{results.stem}-{name}.{kind}") for kind in ("png", "svg")]
    # Without the date in it, and names that chance gives to its parts, the same numbers give the same file.
    with rc_context({"svg.hashsalt": name}):
        for file in files:
            figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def _latency(part: Json, figure: Figure) -> None:
    """Percentiles on a scale that gives each further nine as much room, a panel per transport."""
    names = list(dict.fromkeys(load["transport"] for load in part["loads"]))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    places = list(range(len(_PERCENTILES)))
    for axes, name in zip(panels, names, strict=True):
        for load in (load for load in part["loads"] if load["transport"] == name):
            histogram = Histogram.merged([load["hdr"]])
            told = [p for p in _PERCENTILES if len(histogram) * (100 - p) >= 100]  # one request beyond it, or more
            share = "" if load["share_not_quoted"] else f"{load['share']:.0%}, "
            axes.plot(places[: len(told)], list(map(histogram.ms, told)), ".-", label=f"{share}{load['rate']:.0f}/s")
        axes.set(title=name, yscale="log", xlabel="percentile")
        axes.set_xticks(places, [f"{percentile:g}" for percentile in _PERCENTILES], fontsize=7)
        axes.legend(frameon=False, fontsize=7, title="of capacity", title_fontsize=7)
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="ms from when it was due")


def _capacity(part: Json, figure: Figure) -> None:
    rates, latencies = figure.subplots(1, 2)
    for name, found in part["transports"].items():
        clients = [load["clients"] for load in found["loads"]]
        own = [load for load in found["loads"] if not load["generator"]["bottleneck"]]
        rates.errorbar([load["clients"] for load in own], *_rounds(own), marker="o", capsize=2, label=name)
        latencies.plot(clients, [_drawn(load, "p99_ms") for load in found["loads"]], marker="o", label=name)
    rates.set(ylabel="requests/s", ylim=(0, None))
    latencies.set(ylabel="p99, ms", yscale="log")
    for axes in (rates, latencies):
        axes.set(xlabel="clients (closed loop)", xscale="log")
        axes.set_xticks((1, 2, 4, 8, 16, 32, 64), ["1", "2", "4", "8", "16", "32", "64"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    rates.legend(frameon=False, fontsize=8)


def _rounds(loads: list[Json]) -> tuple[list[float], list[list[float]]]:
    """Requests/s of several rounds: medians, and how far below and above them the lowest and highest are."""
    rates = [load["per_second"] for load in loads]
    below = [load["per_second"] - load["spread"][0] for load in loads]
    return rates, [below, [load["spread"][1] - load["per_second"] for load in loads]]


def _peers(part: Json, figure: Figure) -> None:
    """Medians of the rounds, the lowest and highest as whiskers."""
    started = {name: line for name, line in part["summary"].items() if "failed" not in line}
    titles = {
        "per_second": f"requests/s of {part['clients']['closed']}",
        "crowd": f"requests/s of {part['clients']['crowd']}",
        "alone": "p50 alone",
        "p99": f"p99 at {part['rate']:g}/s",
    }
    panels = figure.subplots(1, len(titles) + 1, sharey=True)
    for axes, (measure, title) in zip(panels, (titles | {"memory": "memory"}).items(), strict=True):
        ratios = [line["ratios"][measure] or (math.nan,) * 3 for line in started.values()]
        errors = [[middle - low for middle, low, _ in ratios], [high - middle for middle, _, high in ratios]]
        bars = axes.barh(list(started), [middle for middle, _, _ in ratios], xerr=errors, capsize=2)
        bars[0].set_color("tab:green")
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(title=f"{title}, to ours", xlabel=f"{'more' if measure in HIGHER_IS_BETTER else 'less'} is better")
        axes.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()


def _stages(part: Json, figure: Figure) -> None:
    axes = figure.subplots()
    names, left = list(part["stages_ms"]), 0.0
    for name in names:
        axes.barh(["at half of capacity"], [part["stages_ms"][name]], left=left, label=name)
        left += part["stages_ms"][name]
    if part["roof"]:
        axes.barh(["roof: no server"], [part["roof"]["decode_ms"]], color="tab:blue")
        axes.barh(["roof: no server"], [part["roof"]["inference_ms"]], left=part["roof"]["decode_ms"], color="tab:red")
    axes.barh(["floor: nothing done"], [part["floor"][0]["mean_ms"]], color="tab:brown")
    axes.invert_yaxis()
    axes.set(xlabel="mean ms of a request")
    if names:
        axes.legend(frameon=False, fontsize=8, ncols=len(names), loc="upper center", bbox_to_anchor=(0.5, 1.2))


def _profile(part: Json, figure: Figure) -> None:
    """Milliseconds of processor time per request, by part."""
    shares = sorted(part["shares"].items(), key=lambda item: float(item[1]))
    axes = figure.subplots()
    bars = axes.barh([name for name, _ in shares], [share * part["server_cpu_ms_per_request"] for _, share in shares])
    axes.bar_label(bars, [f" {share:.0%}" for _, share in shares], fontsize=8)
    axes.set(xlabel="processor time per request, ms")
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.3)


def _batching(part: Json, figure: Figure) -> None:
    rates, latencies, sizes = figure.subplots(1, 3)
    for device, setting in dict.fromkeys((load["device"], load["setting"]) for load in part["loads"]):
        mine = [load for load in part["loads"] if (load["device"], load["setting"]) == (device, setting)]
        clients = [str(load["clients"]) for load in mine]
        for axes, told in (
            (rates, [math.nan if load["generator"]["bottleneck"] else load["per_second"] for load in mine]),
            (latencies, [_drawn(load, "p99_ms") for load in mine]),
            (sizes, [load["mean_windows"] for load in mine]),
        ):
            axes.plot(clients, told, marker="o", label=f"{device}, {setting}")
    rates.set(ylabel="requests/s", ylim=(0, None))
    latencies.set(ylabel="p99, ms", ylim=(0, None))
    sizes.set(ylabel="windows a batch", ylim=(0, None))
    for axes in (rates, latencies, sizes):
        axes.set(xlabel="clients")
        axes.grid(alpha=0.3)
    rates.legend(frameon=False, fontsize=8)


def _growth(part: Json, figure: Figure) -> None:
    lengths, rates = figure.subplots(1, 2)
    _lines(lengths, part["lengths"], "seconds", "seconds of speech at 16 kHz")
    lengths.set(xscale="log", yscale="log")
    _lines(rates, part["rates"], "rate_hz", "sample rate of 3 s, Hz")
    rates.set(ylim=(0, None))


def _lines(axes: Axes, found: list[Json], key: str, label: str) -> None:
    places = [one[key] for one in found]
    axes.plot(places, [one["p50_ms"] for one in found], marker="o", label="request (p50)")
    if any(one["no_stages"] for one in found):
        axes.set(xlabel=label, ylabel="ms")
        return
    axes.plot(places, [one["server_cpu_ms"] for one in found], marker=".", label="processor time")
    for stage in ("decode", "inference"):
        axes.plot(places, [one["stages_ms"][stage] for one in found], marker=".", linestyle="--", label=stage)
    axes.set(xlabel=label, ylabel="ms")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)


def _replicas(part: Json, figure: Figure) -> None:
    axes = figure.subplots()
    counts = [one["replicas"] for one in part["replicas"]]
    axes.plot(counts, [one["simulated"]["rate"] for one in part["replicas"]], marker="o", label="simulated")
    real = [one for one in part["replicas"] if one["measured"] and not one["measured"]["not_quoted"]]
    axes.plot([one["replicas"] for one in real], [one["measured"]["rate"] for one in real], "s", label="behind HAProxy")
    axes.set(
        xlabel="replicas, one core each", ylabel=f"requests/s with a p99 within {part['p99_ms']:g} ms", ylim=(0, None)
    )
    axes.set_xticks(counts)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)


def _offline(found: Json, figure: Figure) -> None:
    """Milliseconds per window against batch size on one thread, and the front end beside librosa."""
    sizes = list(dict.fromkeys(one["batch"] for one in found["network"]))
    batches, fronts = figure.subplots(1, 2, width_ratios=(2, 1))
    for version, precision in dict.fromkeys((one["version"], one["precision"]) for one in found["network"]):
        mine = [
            one
            for one in found["network"]
            if one["threads"] == 1 and (one["version"], one["precision"]) == (version, precision)
        ]
        batches.plot(
            [one["batch"] for one in mine],
            [one["ms_per_window"] for one in mine],
            marker="o",
            label=f"version {version}, {precision}",
        )
    batches.set(xlabel="windows of one forward pass", ylabel="ms per window, one thread", xscale="log", ylim=(0, None))
    batches.set_xticks(sizes, [str(size) for size in sizes])
    batches.minorticks_off()
    batches.legend(frameon=False)
    batches.grid(alpha=0.3)
    front = found["front_end"]
    bars = fronts.bar(["in the graph", "librosa"], [front["ours_ms"], front["librosa_ms"]])
    fronts.bar_label(bars, fmt="%.2f")
    fronts.set(title="40 MFCC of 3 s", ylabel="ms, one thread")


_PLOTS: dict[str, tuple[float, float, Callable[[Json, Figure], None]]] = {
    "latency": (13, 4, _latency),
    "capacity": (9, 3.5, _capacity),
    "peers": (15, 3.2, _peers),
    "stages": (9, 2.8, _stages),
    "profile": (8, 5, _profile),
    "batching": (11, 3.2, _batching),
    "growth": (9, 3.5, _growth),
    "replicas": (5, 3.5, _replicas),
    "offline": (9, 3.5, _offline),
}
"""By part: width and height in inches, and who draws it."""
