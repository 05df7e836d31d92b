"""Batching: the sizes that are chosen as load grows, the same load without it, and other caps on the wait."""

from __future__ import annotations

from benchmarks.bench import Bench, Json
from benchmarks.loops import closed_loop
from benchmarks.target import MULTIPART, Samples, Target, change, total
from serving.runtime import choose_runtime

CLIENTS = (1, 8, 32)
SETTINGS: dict[str, dict[str, object]] = {
    "as it is": {},
    "off": {"max_batch": 1, "max_wait_ms": 0},
    "wait 0 ms": {"max_wait_ms": 0},
    "wait 20 ms": {"max_wait_ms": 20},
}
"""What is compared; 5 ms is the cap as it is."""
_LOAD_S = 1.0


def measure(bench: Bench) -> Json:
    """Every setting at every number of clients, on the CPU, and on CUDA where there is a GPU."""
    devices = ["cpu"] if choose_runtime("auto", 0, 0).device == "cpu" else ["cpu", "cuda"]
    found = []
    for device in devices:
        for name, settings in SETTINGS.items():
            with bench.started(runtime=device, **settings) as target:
                for clients in CLIENTS:
                    line = {"device": device, "setting": name, **loaded(target, bench, clients)}
                    bench.say(
                        f"{device}, {name}, {clients} clients: {line['per_second']:.0f}/s, "
                        f"p99 {line['p99_ms']:.1f} ms, {line['mean_windows']:.2f} windows a batch"
                    )
                    found.append(line)
    return {"loads": found, "no_cuda": "" if "cuda" in devices else choose_runtime("auto", 0, 0).note}


def loaded(target: Target, bench: Bench, clients: int) -> Json:
    """A closed loop and the batches that it made."""
    before = target.samples()
    load = closed_loop(target.transports(bench.data)[MULTIPART], clients, bench.seconds(_LOAD_S)).to_json()
    counted = change(before, target.samples())
    passes = total(counted, "timbre_batch_windows_count")
    return {
        **load,
        "mean_windows": round(total(counted, "timbre_batch_windows_sum") / max(1.0, passes), 3),
        "windows": sizes(counted),
        "reasons": {
            dict(labels)["reason"]: round(n) for (name, labels), n in counted.items() if name == "timbre_batches_total"
        },
    }


def sizes(counted: Samples) -> dict[str, int]:
    """How many batches had at most so many windows and more than the next smaller number, where any had."""
    upto = sorted(
        (float(dict(labels)["le"]), n) for (name, labels), n in counted.items() if name == "timbre_batch_windows_bucket"
    )
    told, below = {}, 0.0
    for edge, n in upto:
        if n > below:
            told["more" if edge == float("inf") else f"{edge:g}"] = round(n - below)
        below = max(below, n)
    return told
