"""The service beside its peers: the same clip, the same cores, one after the other, round after round."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from matplotlib.figure import Figure

from benchmarks.load import closed_loop, multipart_request
from benchmarks.peers import PEERS
from benchmarks.process import HOST, Server
from benchmarks.record import write
from benchmarks.sounds import wav

CLIENTS = (1, 8, 32)

Json = dict[str, Any]


def beside(out: Path, rounds: int, seconds: float) -> Json:
    """Measure every peer once a round, interleaved; write beside.json, beside.md and beside.png; returns the results.

    Args:
        seconds: of each load.
    """
    found: dict[str, list[Json]] = {name: [] for name in PEERS}
    for turn in range(rounds):
        order = list(PEERS) if turn % 2 == 0 else list(reversed(PEERS))
        for name in order:
            print(f"round {turn + 1} of {rounds}: {name}", flush=True)
            with PEERS[name]() as server:
                found[name].append(_measure(server, seconds))
    results: Json = {"rounds": rounds, "seconds": seconds, "peers": found, "summary": summary(found)}
    write(out / "beside.json", results)
    (out / "beside.md").write_text(table(results["summary"]))
    plot(results["summary"], out / "beside.png")
    return results


def _measure(server: Server, seconds: float) -> Json:
    request = multipart_request(wav(), f"{HOST}:{server.port}")
    started = time.perf_counter()
    # The first request may compile and load what later ones use: it is told apart.
    httpx.post(f"http://{HOST}:{server.port}/predict", files={"file": wav()}, timeout=120).raise_for_status()
    first_s = round(time.perf_counter() - started, 3)
    loads = []
    for clients in CLIENTS:
        before = server.cpu_s()
        load = closed_loop(HOST, server.port, request, clients, seconds)
        told = load.to_json()
        # The warm-up's share is in it too, as in the requests it is divided by.
        told["server_cpu_ms"] = round((server.cpu_s() - before) / max(1, load.all_requests) * 1e3, 2)
        loads.append(told)
    return {"ready_s": server.ready_s, "first_answer_s": first_s, "resident_mb": server.resident_mb(), "loads": loads}


def summary(found: dict[str, list[Json]]) -> Json:
    """Medians over rounds, and each peer as a ratio to the first with the lowest and highest of any round."""
    first = next(iter(found))
    lines: Json = {}
    for name, rounds in found.items():
        line: Json = {"resident_mb": median(one["resident_mb"] for one in rounds), "loads": []}
        for index, clients in enumerate(CLIENTS):
            loads = [one["loads"][index] for one in rounds]
            ratios = [
                {key: ours["loads"][index][key] / theirs["loads"][index][key] for key in ("per_second", "p50_ms")}
                for ours, theirs in zip(found[first], rounds, strict=True)
            ]
            line["loads"].append(
                {
                    "clients": clients,
                    **{key: median(load[key] for load in loads) for key in ("per_second", "p50_ms", "p99_ms")},
                    "server_cpu_ms": median(load["server_cpu_ms"] for load in loads),
                    "errors": sum(load["errors"] for load in loads),
                    "times_as_fast": _spread([ratio["per_second"] for ratio in ratios]),
                    "latency_share": _spread([ratio["p50_ms"] for ratio in ratios]),
                }
            )
        line["memory_share"] = _spread(
            [ours["resident_mb"] / theirs["resident_mb"] for ours, theirs in zip(found[first], rounds, strict=True)]
        )
        lines[name] = line
    return lines


def _spread(ratios: list[float]) -> list[float]:
    """Median, lowest, highest."""
    return [round(value, 3) for value in (median(ratios), min(ratios), max(ratios))]


def table(lines: Json) -> str:
    """Markdown: one line per peer and load; ratios are the first's to this one's."""
    first = next(iter(lines))
    text = f"| server | clients | requests/s | p50 ms | p99 ms | CPU ms per request | errors | memory | {first} is |\n"
    text += "|---|---|---|---|---|---|---|---|---|\n"
    for name, line in lines.items():
        for load in line["loads"]:
            ratio = ""
            if name != first:
                times, low, high = load["times_as_fast"]
                ratio = f"{times:.1f} times as fast ({low:.1f} to {high:.1f})"
            text += (
                f"| {name} | {load['clients']} | {load['per_second']:.0f} | {load['p50_ms']:.1f} | "
                f"{load['p99_ms']:.1f} | {load['server_cpu_ms']:.1f} | {load['errors']} | "
                f"{line['resident_mb']:.0f} MB | {ratio} |\n"
            )
    return text


def plot(lines: Json, path: Path) -> None:
    """Requests per second at each number of clients."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(lines)
    for index, (name, line) in enumerate(lines.items()):
        places = [place + index * width for place in range(len(CLIENTS))]
        bars = axes.bar(places, [load["per_second"] for load in line["loads"]], width, label=name)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.set_xticks(
        [place + 0.4 - width / 2 for place in range(len(CLIENTS))],
        [f"{clients} client{'s' if clients > 1 else ''}" for clients in CLIENTS],
    )
    axes.set(ylabel="requests/s")
    axes.legend(frameon=False)
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=120)
