"""How many pods of which size for N requests/s at a p99: benchmarks/capacity.md, worked out from a results file."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

from benchmarks.tables import of_simulated

Json = dict[str, Any]

WANTED = (10, 50, 100, 500, 1000)
"""Requests per second that the table answers for."""
_LOAD = 0.7
"""Of the rate that holds the p99, so that one request in a while more is no incident."""
_MEMORY = 1.5
"""Times the memory after load: what long recordings in flight take beside."""


def pods(rate: float, held: float) -> int:
    """Pods for a rate when one holds ``held``: loaded to _LOAD, and one more, which may be replaced or lost."""
    return math.ceil(rate / (_LOAD * held)) + 1


def memory_mib(resident_mb: float) -> int:
    """A pod's memory request, MiB, in steps of 64."""
    return math.ceil(_MEMORY * resident_mb * 1e6 / 2**20 / 64) * 64


def sizes(found: Json) -> list[Json]:
    """The sizes of pods that were measured: name, cores, the rate that each holds, its memory in MB."""
    parts = found["parts"]
    cores = int(found["provenance"]["machine"].split(" cores")[0].rsplit(", ", 1)[1])
    one, memory_mb = parts["replicas"]["replicas"][0], parts["size"]["memory"]["after_mb"]
    simulated = one["simulated"]["rate"]
    single: Json = {"how": "simulated from the measured service times: an upper bound", "held": simulated}
    if one["measured"] and not one["measured"]["not_quoted"]:
        beside = f"; {of_simulated(one):.2f} of the simulated {simulated:.1f}" if simulated else ""
        single = {"how": f"behind HAProxy{beside}", "held": one["measured"]["rate"]}
    both: Json = {
        "how": "beside its load generator on the same cores",
        "held": None if parts["capacity"]["held"]["not_quoted"] else parts["capacity"]["held"]["rate"],
    }
    # Memory is of the same service after thousands of requests: a pod that answers for a day comes to that too.
    return [
        {"name": "1 core", **single, "resident_mb": memory_mb},
        {"name": f"{cores} cores", **both, "resident_mb": memory_mb},
    ]


def capacity_md(found: Json) -> str:
    """The page, with its arithmetic; every number is of the results file."""
    parts = found["parts"]
    if lacking := [
        name for name in ("capacity", "replicas", "size") if "left_out" in parts.get(name, {"left_out": ""})
    ]:
        return f"# Capacity\n\nNot worked out: {', '.join(lacking)} was not measured.\n"
    measured = [size for size in sizes(found) if size["held"]]
    p99 = parts["capacity"]["held"]["p99_ms"]
    mean_s = sum(clip["seconds"] for clip in found["clips"]) / len(found["clips"])
    requests = parts["size"]["memory"]["points"][0]["requests"]
    text = (
        f"# How many pods\n\nWorked out by `python -m benchmarks report --readme` from the run of "
        f"{found['provenance']['date'][:10]} on {found['provenance']['machine']}, with clips of {mean_s:.1f} s on "
        f"average, for a p99 of {p99:g} ms under Poisson arrivals. Measure on a node of yours with "
        "`make benchmark`, and put its numbers here.\n\n## What one pod holds\n\n"
        f"| pod | requests/s within the p99 | how that is known | memory after {requests} requests | "
        "memory to request |\n"
        "|---|---|---|---|---|\n"
    )
    for size in measured:
        text += (
            f"| {size['name']} | {size['held']:.1f} | {size['how']} | {size['resident_mb']:.0f} MB | "
            f"{_MEMORY:g} x {size['resident_mb']:.0f} MB = {memory_mib(size['resident_mb'])} MiB |\n"
        )
    text += (
        f"\n## Pods for a rate\n\npods = ceil(rate / ({_LOAD:g} x what one holds)) + 1. {_LOAD:g}, because the rate "
        "that just holds has no room for a busy minute; one more, because a rollout or a lost node takes one away.\n\n"
        "| requests/s | "
    )
    text += " | ".join(f"pods of {size['name']}" for size in measured) + " |\n|---" + "|---" * len(measured) + "|\n"
    for rate in WANTED:
        cells = [f"ceil({rate} / {_LOAD * size['held']:.1f}) + 1 = {pods(rate, size['held'])}" for size in measured]
        text += f"| {rate} | {' | '.join(cells)} |\n"
    return text + _growth(parts, measured)


def _growth(parts: Json, measured: list[Json]) -> str:
    """What other clips make of it: processor time is what a pod has, so its rate goes down as a request's goes up."""
    growth = parts.get("growth")
    if not growth or "left_out" in growth:
        return ""
    p99, usual_ms = parts["capacity"]["held"]["p99_ms"], growth["clips"]["server_cpu_ms"]
    text = (
        "\n## Longer clips\n\nA pod's rate goes down as the processor time of a request goes up. That was measured "
        "at each length, of clips at 16 kHz, and of the clips that the rates above are of, whose rates are higher and "
        f"which take {usual_ms:.1f} ms: all in turn, medians of the rounds, their lowest and highest in brackets. No "
        f"clip is taken to cost less than a shorter one. What takes more than {p99:g} ms when alone cannot have a p99 "
        "of that at any rate: what is given then is what a pod works off.\n\n"
        "| clip | processor time | alone, p50 | to the clips above | "
    )
    text += " | ".join(f"requests/s, pod of {size['name']}" for size in measured) + " |\n"
    text += "|---|---|---|---" + "|---" * len(measured) + "|\n"
    lengths = sorted(growth["lengths"], key=lambda one: float(one["seconds"]))
    for one, cpu_ms in zip(lengths, accumulate((one["server_cpu_ms"] for one in lengths), max), strict=True):
        times = cpu_ms / usual_ms
        late = " (p99 above)" if one["p50_ms"] > p99 else ""
        cells = [f"{size['held']:.1f} / {times:.2f} = {size['held'] / times:.1f}{late}" for size in measured]
        low, high = one["server_cpu_spread"]
        text += (
            f"| {one['seconds']:g} s | {one['server_cpu_ms']:.1f} ms ({low:.1f} to {high:.1f}) | "
            f"{one['p50_ms']:.1f} ms | {cpu_ms:.1f} / {usual_ms:.1f} = {times:.2f} | {' | '.join(cells)} |\n"
        )
    return text
