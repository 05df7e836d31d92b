"""Batching: the sizes that are chosen as load grows, the same load without it, and other caps on the wait."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.bench import Bench, Json
from benchmarks.load import Load
from benchmarks.loops import closed_loop
from benchmarks.rounds import in_turn, told
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
_LOAD_S, _WARM_S = 0.4, 0.3

_Round = tuple[Load, Samples]


def measure(bench: Bench) -> Json:
    """Every setting at every number of clients, on the CPU, and on CUDA where there is a GPU.

    The services of a device run side by side and are asked in turn, one at a time: what they differ by is not when they
    were asked.
    """
    devices = ["cpu"] if choose_runtime("auto", 0, 0).device == "cpu" else ["cpu", "cuda"]
    found = []
    for device in devices:
        with ExitStack() as stack:
            targets = {
                name: stack.enter_context(bench.started(runtime=device, **settings))
                for name, settings in SETTINGS.items()
            }
            rounds = in_turn(
                {
                    (name, clients): partial(loaded, target, bench, clients)
                    for clients in CLIENTS
                    for name, target in targets.items()
                },
                bench.rounds,
            )
        for name, clients in ((name, clients) for name in SETTINGS for clients in CLIENTS):
            line = {"device": device, "setting": name, **batched(rounds[name, clients])}
            low, high = line["spread"]
            bench.say(
                f"{device}, {name}, {clients} clients: {line['per_second']:.0f}/s ({low:.0f} to {high:.0f}), "
                f"{line['mean_windows']:.2f} windows a batch"
            )
            found.append(line)
    return {"loads": found, "no_cuda": "" if "cuda" in devices else choose_runtime("auto", 0, 0).note}


def loaded(target: Target, bench: Bench, clients: int) -> _Round:
    """A closed loop, and what the service counted meanwhile."""
    before = target.samples()
    load = closed_loop(target.transports(bench.data)[MULTIPART], clients, bench.seconds(_LOAD_S), _WARM_S)
    return load, change(before, target.samples())


def batched(rounds: Sequence[_Round]) -> Json:
    """Rounds of one load as one, and the batches that it made."""
    names = {name for _, samples in rounds for name in samples}
    counted = {name: sum(samples.get(name, 0.0) for _, samples in rounds) for name in sorted(names)}
    passes = total(counted, "timbre_batch_windows_count")
    return {
        **told([load for load, _ in rounds]),
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
