"""One to four replicas with one core each: behind HAProxy where there are cores for them, and simulated beside it.

The simulation knows how long one replica takes for one request when nobody else asks (measured, each after a pause:
one that follows another closely takes less), sends Poisson arrivals to the replicas in turn as HAProxy's roundrobin
does, and lets each answer in order, one at a time. It leaves out what batching saves, and what sockets, a proxy and a
busy machine cost, so it is shown beside the measured ones wherever both exist.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.bench import Bench, Json
from benchmarks.load import Transport
from benchmarks.loops import one_by_one, open_loop
from benchmarks.parts.capacity import P99_MS, highest_rate
from benchmarks.peers import timbre
from benchmarks.process import HOST, bound_to, free_port, wait_until_ready
from benchmarks.target import MULTIPART
from benchmarks.transports import multipart

REPLICAS = (1, 2, 3, 4)
ARRIVALS = 20_000
_PAUSE_S = 0.05
_ASKED = 80
"""Requests of which the service times are drawn."""
_PROBE_S, _RATES = 2.0, 3
_ENOUGH = 200
"""Arrivals of a probe: of 100 the p99 is one request."""

_CONFIG = """
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend http
    bind {host}:{port}
    default_backend replicas
backend replicas
    balance roundrobin
    http-request return status 200 if {{ path /haproxy }}
{servers}
"""


def measure(bench: Bench) -> Json:
    """The highest Poisson rate that holds the p99, for every number of replicas, measured and simulated."""
    cores = sorted(os.sched_getaffinity(0))
    with bench.started({cores[0]}) as target, bound_to(set(cores[1:])):
        way = target.transports(bench.data)[MULTIPART]
        asked = max(20, round(_ASKED * min(1.0, bench.scale)))
        service_s = np.array(one_by_one(way, 0.0, least=asked, pause_s=_PAUSE_S).latencies_s)
    bench.say(f"one replica on one core: {service_s.mean() * 1e3:.1f} ms a request")
    found = []
    for number in REPLICAS:
        line: Json = {"replicas": number, "simulated": simulated(service_s, number, bench.seed), "measured": None}
        line["why_not_measured"] = why_not(number, len(cores))
        if not line["why_not_measured"]:
            most = 1.5 * (line["simulated"]["rate"] or line["simulated"]["capacity"])
            line["measured"] = measured(bench, cores[:number], set(cores[number:]), most)
        bench.say(_told(line))
        found.append(line)
    return {
        "arrivals": "Poisson",
        "balance": "round robin",
        "p99_ms": P99_MS,
        "pause_ms": _PAUSE_S * 1e3,
        "service_ms": [round(float(value) * 1e3, 3) for value in service_s],
        "replicas": found,
    }


def _told(line: Json) -> str:
    real = line["measured"]
    beside = f", measured {real['not_quoted'] or format(real['rate'], '.0f') + '/s'}" if real else ""
    return f"{line['replicas']} replicas: simulated {line['simulated']['rate']:.0f}/s{beside}"


def why_not(replicas: int, cores: int) -> str:
    """Why so many replicas are not started here; empty where they are."""
    if cores < replicas + 1:
        return (
            f"{replicas} replicas with one core each, and one for the load, need {replicas + 1} cores; here are {cores}"
        )
    return "" if shutil.which("haproxy") else "HAProxy is not installed (apt-get install haproxy)"


def simulated(service_s: npt.NDArray[np.float64], replicas: int, seed: int) -> Json:
    """The highest rate whose simulated p99 is within P99_MS, and that p99."""

    def at(rate: float) -> Json:
        waits = response_s(service_s, replicas, rate, seed)
        return {"p99_ms": float(np.percentile(waits, 99)) * 1e3, "errors": 0, "generator": {"bottleneck": ""}}

    most = replicas / float(service_s.mean())
    rate = highest_rate(at, most, probes=10)["rate"]
    return {
        "rate": rate,
        "capacity": round(most, 1),
        "p99_ms": round(at(rate)["p99_ms"], 2) if rate else None,
        "arrivals": ARRIVALS,
    }


def response_s(
    service_s: npt.NDArray[np.float64], replicas: int, rate: float, seed: int, arrivals: int = ARRIVALS
) -> npt.NDArray[np.float64]:
    """How long each arrival waits and is served, seconds (arrivals,).

    Poisson arrivals in turn to queues of one server each, service times drawn from the measured ones. A server is free
    again at f' = max(f, came) + took (Lindley's recursion), which is all that it has served until then and the longest
    that it was ahead of its arrivals before: f' = sum(took) + max(came - sum of took before).
    """
    rng = np.random.default_rng(seed)
    came = np.cumsum(rng.exponential(1 / rate, arrivals))
    took = rng.choice(service_s, arrivals)
    found = np.empty(arrivals)
    for replica in range(replicas):
        its = slice(replica, None, replicas)
        served = np.cumsum(took[its])
        found[its] = served + np.maximum.accumulate(came[its] - (served - took[its])) - came[its]
    return found


def measured(bench: Bench, cores: Sequence[int], others: set[int], most: float) -> Json:
    """Real replicas, each on one core, behind HAProxy; it and the load generator have the other cores.

    Args:
        most: higher a rate is not looked for.
    """
    probes: list[Json] = []
    with ExitStack() as stack:
        ports = [stack.enter_context(timbre({core})).port for core in cores]
        stack.enter_context(bound_to(others))
        url = stack.enter_context(haproxy(ports))
        way: Transport = multipart(url, bench.data)

        def at(rate: float) -> Json:
            seconds = max(bench.seconds(_PROBE_S), min(1.0, bench.scale) * _ENOUGH / rate)
            probes.append(open_loop(way, rate, seconds, bench.seed + len(probes)).to_json())
            return probes[-1]

        one_by_one(way, 0.0, least=len(bench.data) * len(cores))  # what is loaded late is loaded
        held = highest_rate(at, most, _RATES)
    return {**held, "probes": probes}


@contextmanager
def haproxy(ports: Sequence[int]) -> Iterator[str]:
    """HAProxy before servers at these ports, on this process's cores; its address."""
    port = free_port()
    servers = "\n".join(f"    server replica{n} {HOST}:{one}" for n, one in enumerate(ports))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        config = Path(folder) / "haproxy.cfg"
        config.write_text(_CONFIG.format(host=HOST, port=port, servers=servers))
        command = [str(shutil.which("haproxy")), "-f", str(config), "-db"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(process, f"http://{HOST}:{port}/haproxy", log)
            yield f"http://{HOST}:{port}"
        finally:
            process.terminate()
            process.wait(10)
