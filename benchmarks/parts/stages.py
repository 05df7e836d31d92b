"""Where a request's time goes: the service's own stages, the floor (a route that does nothing) and the roof."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from statistics import median

from benchmarks.bench import Bench, Json
from benchmarks.loops import closed_loop, open_loop
from benchmarks.peers import EXPORTED
from benchmarks.rounds import in_turn, spread, told
from benchmarks.target import MULTIPART, NotHereError, Samples, Target, change, total
from benchmarks.transports import get, multipart
from serving import audio
from serving.artifact import Artifact
from serving.router import ROUTES_FILE, Routes
from serving.runtime import Runtime, choose_runtime
from serving.session import Session

STAGES = ("decode", "queue", "batch", "inference")
_SHARE = 0.5  # of capacity: busy, and not yet a queue
_LOAD_S, _FLOOR_S, _ROOF_S, _WARM_S = 3.0, 0.5, 0.8, 0.4
_FLOOR_CLIENTS = (1, 8)


def measure(bench: Bench) -> Json:
    """Stages at half of capacity, floor, roof, and how much of the roof is reached."""
    target = bench.service()
    load, stages_ms, no_stages = staged(target, bench)
    way, seconds = get(target.url, "/livez"), bench.seconds(_FLOOR_S)
    rounds = in_turn({n: partial(closed_loop, way, n, seconds, _WARM_S) for n in _FLOOR_CLIENTS}, bench.rounds)
    floors = [told(loads) for loads in rounds.values()]
    bench.say(f"floor: {floors[-1]['per_second']:.0f}/s, p50 {floors[0]['p50_ms']:.2f} ms alone")
    found: Json = {"load": load, "stages_ms": stages_ms, "no_stages": no_stages, "floor": floors}
    if bench.url:
        return found | {"roof": None, "achieved": None, "not_quoted": ""}  # its cores are not these
    return found | below_the_roof(bench)


def below_the_roof(bench: Bench) -> Json:
    """Service and roof in turn, round after round: what share of the roof the service reaches, of the same moment.

    The service is asked by as many clients as capacity was found with; while the roof is measured it is idle.
    """
    way, clients, seconds = bench.multipart(), bench.highest().clients, bench.seconds(_ROOF_S)
    loads, roofs = [], []
    for _ in range(bench.rounds):
        loads.append(closed_loop(way, clients, seconds, _WARM_S))
        roofs.append(roof(bench.data, seconds))
    shares = [load.per_second / above["per_second"] for load, above in zip(loads, roofs, strict=True)]
    middle, lowest, highest = spread(shares, 3)
    served, above_all = told(loads), _middle(roofs)
    not_quoted = served["generator"]["bottleneck"]
    bench.say(
        f"roof: {above_all['per_second']:.0f}/s, of which "
        f"{not_quoted or f'{middle:.0%} ({lowest:.0%} to {highest:.0%})'} are reached"
    )
    return {
        "roof": above_all,
        "served": served,
        "achieved": None if not_quoted else middle,
        "achieved_spread": None if not_quoted else [lowest, highest],
        "not_quoted": not_quoted,
    }


def _middle(roofs: Sequence[Json]) -> Json:
    """Medians of several."""
    middle, lowest, highest = spread([one["per_second"] for one in roofs])
    return {
        **roofs[0],
        "requests": sum(one["requests"] for one in roofs),
        "per_second": middle,
        "spread": [lowest, highest],
        **{key: round(median(one[key] for one in roofs), 3) for key in ("decode_ms", "inference_ms")},
    }


def staged(target: Target, bench: Bench) -> tuple[Json, Json, str]:
    """An open loop, the mean ms of its requests in each stage, and why there are none, where there are none.

    ``pipeline`` is what the service's total has beside the stages; ``around`` what the client waits beside that total:
    sockets, HTTP, the body, the answer, and who else has the cores.
    """
    way = multipart(target.url, bench.data)
    rate = _SHARE * bench.highest(MULTIPART).per_second
    load: Json = {}
    try:
        before = target.samples()
        load = open_loop(way, rate, bench.seconds_at(rate, _LOAD_S), bench.seed, warm_s=0.0).to_json()
        counted = change(before, target.samples())
    except NotHereError as reason:
        bench.say(f"stages are left out: {reason}")
        return load, {}, str(reason)
    stages = {stage: round(mean_ms(counted, stage), 3) for stage in STAGES}
    whole = mean_ms(counted, "total")
    stages["pipeline"] = round(max(0.0, whole - sum(stages.values())), 3)
    stages["around"] = round(max(0.0, load["mean_ms"] - whole), 3)
    bench.say(", ".join(f"{name} {ms:.2f}" for name, ms in stages.items()) + " ms")
    return load, stages, ""


def mean_ms(counted: Samples, stage: str) -> float:
    """Of the requests that were answered meanwhile; 0 where there were none."""
    requests = total(counted, "timbre_stage_seconds_count", stage=stage)
    return total(counted, "timbre_stage_seconds_sum", stage=stage) / requests * 1e3 if requests else 0.0


def roof(clips: Sequence[bytes], seconds: float) -> Json:
    """Decode, cut, infer and nothing else, in as many threads as the machine has lanes.

    One clip is one pass, on the runtime that the service would choose: what a server spends beside is nothing here, and
    what it saves by taking several clips into one pass is not in it.
    """
    runtime = choose_runtime("auto", 0, 0)
    session = served_session(runtime)
    spec = session.metadata.windows
    ends = time.perf_counter() + seconds
    decoded_s: list[float] = []
    passed_s: list[float] = []

    def work(turn: int) -> None:
        while (started := time.perf_counter()) < ends:
            clip = audio.decode(clips[turn % len(clips)], spec.rate_hz)
            windows = audio.windows(clip.samples, spec)[:]
            decoded = time.perf_counter()
            session.run(windows)
            decoded_s.append(decoded - started)
            passed_s.append(time.perf_counter() - decoded)
            turn += 1

    # More threads than lanes on CUDA, where decoding is what the cores do.
    threads = [
        threading.Thread(target=work, args=(n,)) for n in range(max(runtime.lanes, choose_runtime("cpu", 0, 0).lanes))
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - started
    session.close()
    return {
        "device": runtime.device,
        "threads": len(threads),
        "requests": len(passed_s),
        "per_second": round(len(passed_s) / took_s, 2),
        "decode_ms": round(sum(decoded_s) / len(decoded_s) * 1e3, 3),
        "inference_ms": round(sum(passed_s) / len(passed_s) * 1e3, 3),
    }


def served_session(runtime: Runtime) -> Session:
    """The version that a service answers with unless it is told otherwise."""
    file = EXPORTED / ROUTES_FILE
    version = Routes.parse(file.read_text(), file).default_version
    return Session(Artifact.load(EXPORTED / version, runtime.precision), runtime)
