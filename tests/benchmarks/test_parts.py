"""Every part of the benchmark against a real service, and what is worked out of what they find."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import soak as soaking
from benchmarks.bench import Bench
from benchmarks.clips import SAMPLES, clips
from benchmarks.load import Load
from benchmarks.loops import one_by_one, open_loop
from benchmarks.parts import batching, capacity, growth, latency, profile, replicas, size, stages
from benchmarks.parts.capacity import P99_MS, highest_rate, quoted
from benchmarks.parts.replicas import haproxy, measured, response_s, simulated, why_not
from benchmarks.plots import plot
from benchmarks.process import free_port, serving
from benchmarks.soak import soak, summary
from benchmarks.tables import (
    batching_section,
    capacity_section,
    growth_section,
    latency_table,
    replicas_section,
    stages_section,
)
from benchmarks.target import MULTIPART, OIP, RAW, RPC, NotHereError, Target, change
from benchmarks.transports import multipart
from serving import audio, settings
from serving.runtime import Runtime
from serving.session import Session
from tests.benchmarks.made import load, quiet
from tests.benchmarks.servers import answering
from tests.conftest import ROOT, SERVED
from tests.service import Service, children, running, until

Json = dict[str, Any]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With room for all that is due while the machine stands still: what is measured here is no refusal."""
    with running(tmp_path_factory.mktemp("benchmarks") / "log.txt", max_inflight=1000) as found:
        yield found


@pytest.fixture
def there(service: Service) -> Bench:
    """A bench that measures a service which runs already."""
    return quiet(url=service.url, grpc=service.grpc, rounds=2)


def test_clips_are_made_where_there_are_none(tmp_path: Path) -> None:
    made = [clip.to_json() for clip in clips(tmp_path / "nowhere")]
    assert len({clip["sha256"] for clip in made}) == len(made) == 12
    assert {clip["rate_hz"] for clip in made} == {48_000, 24_414}
    if SAMPLES.is_dir():
        real = [clip.to_json() for clip in clips()]
        assert [clip["rate_hz"] for clip in real] == [clip["rate_hz"] for clip in made]
        assert [clip["seconds"] for clip in real] == pytest.approx([clip["seconds"] for clip in made], abs=0.02)


def test_capacity_and_latency_of_a_running_service(there: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "CLIENTS", (1, 2))
    monkeypatch.setattr(capacity, "_FEW", (2,))
    monkeypatch.setattr(capacity, "_PROBES", 1)
    monkeypatch.setattr(latency, "SHARES", (0.75,))
    found = capacity.measure(there)
    assert list(found["transports"]) == [MULTIPART, RAW, RPC, OIP]
    for one in found["transports"].values():
        assert one["highest_seen"] > 0
        assert all(each["errors"] == 0 for each in one["loads"])
    assert len(found["held"]["probes"]) > 0
    there.found["capacity"] = found
    loads = latency.measure(there)["loads"]
    assert [one["transport"] for one in loads] == [MULTIPART, RAW, RPC, OIP]
    for one in loads:
        assert one["rate"] == pytest.approx(0.75 * found["transports"][one["transport"]]["highest_seen"], abs=0.01)
        assert one["errors"] == 0 < one["p50_ms"]


def test_stages_and_growth_of_a_running_service(there: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "LENGTHS_S", (1.0, 30.0))
    monkeypatch.setattr(growth, "RATES_HZ", (8_000, 48_000))
    told = stages.measure(there)
    assert told["stages_ms"]["inference"] > 0
    assert sum(told["stages_ms"].values()) == pytest.approx(told["load"]["mean_ms"], rel=0.2)
    assert (told["roof"], told["achieved"]) == (None, None)
    assert told["floor"][0]["p50_ms"] < told["load"]["p50_ms"]
    grown = growth.measure(there)
    short, long = grown["lengths"]
    assert short["p50_ms"] < long["p50_ms"]
    assert short["server_cpu_ms"] < long["server_cpu_ms"]
    for one in (short, long, grown["clips"]):
        low, high = one["server_cpu_spread"]
        assert 0 < low <= one["server_cpu_ms"] <= high
        assert one["generator"]["core_share"] > 0
    assert grown["clips"]["requests"] >= there.rounds * len(there.sent)
    assert {one["rate_hz"] for one in grown["rates"]} == {8_000, 48_000}


def test_ten_minutes_do_not_say_what_a_second_costs() -> None:
    """4 ms and 2 ms a second, and ten minutes that took a tenth longer: by least squares alone -8 ms would be fixed."""
    points = [(seconds, 4 + 2 * seconds) for seconds in (1.0, 3.0, 10.0, 60.0)]
    assert growth.line_through(points) == pytest.approx((2, 4))
    each, fixed = growth.line_through([*points, (600.0, 1.1 * 1204)])
    assert fixed == pytest.approx(4, rel=0.1)
    assert each == pytest.approx(2, rel=0.1)


def test_memory_of_a_running_service(there: Bench) -> None:
    there.scale = 0.005
    found = size.measure(there)
    assert found["start"] is None
    first, *_, last = found["memory"]["points"]
    assert last["requests"] - first["requests"] >= 300
    assert 50 < first["resident_mb"] < 2000


def test_whatever_the_service_reads_is_forgotten_for_a_cold_start() -> None:
    resolved = cache(Path.resolve)  # folders only: there are tens of thousands of files
    files = {resolved(path.parent) / path.name for path in size.read_by_the_service()}
    for module in (np, json, settings):  # a package, the standard library, the service
        assert Path(str(module.__file__)).resolve() in files
    assert (ROOT / "exported" / SERVED / "model.onnx") in files


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        ("run (asyncio/runners.py:1);submit (serving/batcher.py:9);taken (serving/batches.py:3)", "batching"),
        ("run (asyncio/runners.py:1);waits (serving/learned.py:7)", "batching"),
        ("run (asyncio/runners.py:1);data_received (serving/connection.py:5)", "HTTP: FastAPI and our transport"),
        ("__call__ (serving/transports/asgi.py:8);keep (serving/room.py:3)", "HTTP: FastAPI and our transport"),
        ("__call__ (serving/transports/early.py:8)", "HTTP: FastAPI and our transport"),
        ("__call__ (starlette/routing.py:8);part (serving/transports/body.py:30)", "multipart"),
        ("run (asyncio/runners.py:1);span (serving/tracing.py:3)", "pipeline"),
        ("run (asyncio/runners.py:1);emit (serving/logs.py:3)", "other"),
        ("run (asyncio/runners.py:1);select (selectors.py:3)", "event loop and sockets"),
        ("main (somewhere.py:1)", "other"),
    ],
)
def test_a_sample_is_of_the_innermost_part_it_is_in(stack: str, part: str) -> None:
    thread, idle = "thread (7): decode_0", "_worker (concurrent/futures/thread.py:81)"
    raw = f"{thread};{stack} 3\n{thread};{idle} 100\n{thread};{stack} 2\nthread (8): decode_1;{stack} 4"
    assert profile.by_part(raw) == {7: {part: 5}, 8: {part: 4}}
    assert profile.thread_names(raw) == {7: "decode", 8: "decode"}


def test_samples_share_out_what_their_own_thread_took() -> None:
    """Sampled alike, since one waits for a core; the kernel says that the network's took four times as much."""
    network, decoding = "network and front end (ONNX Runtime)", "decoding"
    samples = {7: Counter({network: 100}), 8: Counter({decoding: 75, "pipeline": 25})}
    parts = profile.shared_out(12.0, {7: 8.0, 8: 2.0, 9: 1.0}, samples)
    assert {name: taken for name, taken in parts.items() if taken} == {
        network: 8.0,
        decoding: 1.5,
        "pipeline": 0.5,
        profile.NATIVE: 2.0,  # of thread 9, and of a child
    }


def test_the_places_of_the_profile_are_there() -> None:
    named = {place for _, places in profile.PARTS for place in places if place.startswith("serving/")}
    assert all((ROOT / place).exists() for place in named), named


@pytest.mark.parametrize("part", [batching, replicas, profile])
def test_what_only_a_service_of_its_own_can_tell_is_left_out(there: Bench, part: Any) -> None:
    with pytest.raises(NotHereError):
        part.measure(there)


def test_a_soak_is_written_window_by_window(there: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soaking, "_WINDOW_S", 0.4)
    found = json.loads(soak(there, tmp_path, seconds=1.0, share=0.3).read_text())
    assert [window["until_s"] for window in found["windows"]] == [0.4, 0.8, 1.0]
    assert found["settings"].items() >= {"url": there.url, "seconds": 1.0, "share": 0.3, "seed": 0}.items()
    assert found["rate"] == pytest.approx(0.3 * found["settings"]["capacity"], abs=0.02)
    assert isinstance(found["settings"]["not_quoted"], str)  # a capacity that is none says so
    assert found["errors"] == 0 < found["requests"]
    assert all(window["resident_mb"] > 50 for window in found["windows"])


def test_what_a_soak_comes_to_by_hand() -> None:
    windows = [{"until_s": 360.0 * n, "resident_mb": 200.0 + n, **load(100, 9.0)} for n in range(1, 21)]
    told = summary(windows)
    assert told["mb_per_hour"] == pytest.approx(10.0)
    assert told["p99_ms_per_hour"] == pytest.approx(0.0)
    assert told["requests"] == 2000


@pytest.mark.timed  # samples that come by the clock share out processor time
def test_a_service_of_its_own_tells_roof_profile_and_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "forget_files", lambda: None)  # it would slow down every other test
    monkeypatch.setattr(size, "CACHES", ("cold", "warm"))
    bench = quiet(scale=0.02, rounds=2)
    try:
        try:
            profiled = profile.measure(bench)
            assert sum(profiled["shares"].values()) == pytest.approx(1, abs=0.01)
            network = profiled["shares"]["network and front end (ONNX Runtime)"]
            assert network * profiled["server_cpu_ms_per_request"] > 0.5 * _least_network_cpu_ms(bench)
            assert {"MainThread", "decode", f"version-{SERVED}"} <= profiled["threads_ms"].keys()
        except NotHereError as reason:
            assert "ptrace" in str(reason)  # noqa: PT017 - a machine may forbid it, and then says so
        memory = size.measure(bench)
        told = stages.measure(bench)
    finally:
        bench.stop()
    assert memory["memory"]["idle_mb"] > 50
    assert [one["cache"] for one in memory["start"]] == ["cold", "warm"]
    assert told["roof"]["per_second"] > 0
    low, high = told["achieved_spread"]
    assert 0 < low <= told["achieved"] <= high
    assert told["served"]["clients"] == bench.highest().clients
    assert min(told["roof"]["decode_ms"], told["roof"]["inference_ms"]) > 0


def _least_network_cpu_ms(bench: Bench) -> float:
    """Processor time of a clip's windows in the network alone, in this thread, where nobody disturbs it."""
    session = stages.served_session(Runtime("cpu", lanes=1, threads=1, batch_windows=4))
    try:
        spec = session.metadata.windows
        heard = [audio.windows(audio.decode(data, spec.rate_hz).samples, spec)[:] for data in bench.data]
        return float(np.mean([min(_cpu_ms(session, windows) for _ in range(5)) for windows in heard]))
    finally:
        session.close()


def _cpu_ms(session: Session, windows: audio.Samples) -> float:
    began = time.thread_time()
    session.run(windows)
    return (time.thread_time() - began) * 1e3


def test_batching_is_measured_with_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "CLIENTS", (1, 4))
    monkeypatch.setattr(batching, "SETTINGS", {name: batching.SETTINGS[name] for name in ("as it is", "off")})
    found = batching.measure(quiet(rounds=2))
    cpu = [(one["setting"], one["clients"]) for one in found["loads"] if one["device"] == "cpu"]
    assert cpu == [("as it is", 1), ("as it is", 4), ("off", 1), ("off", 4)]
    assert all(one["errors"] == 0 < one["requests"] for one in found["loads"])
    assert all(one["spread"][0] <= one["per_second"] <= one["spread"][1] for one in found["loads"])
    for alone in (one for one in found["loads"] if one["setting"] == "off"):
        assert alone["mean_windows"] == 1.0
        assert alone["windows"].keys() == {"1"}
    assert bool(found["no_cuda"]) == ({one["device"] for one in found["loads"]} == {"cpu"})
    assert "| cpu | off | 4 |" in batching_section(found)


def test_replicas_are_measured_and_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is asked alone may use its core only; those behind HAProxy have a test of their own."""
    every = os.sched_getaffinity(0)
    cores = sorted(every)
    started = Bench.started
    measured_with: list[tuple[Any, ...]] = []

    @contextmanager
    def watched(bench: Bench, bound: set[int], /, **settings: object) -> Iterator[Target]:
        with started(bench, bound, **settings) as target:
            assert target.server is not None
            assert os.sched_getaffinity(target.server.process.pid) == bound == {cores[0]}
            yield target

    def one_measured(_: Bench, *told: Any) -> Json:
        measured_with.append(told)
        return {"rate": 7.0, "not_quoted": "", "probes": []}

    monkeypatch.setattr(Bench, "started", watched)
    monkeypatch.setattr(replicas, "measured", one_measured)
    monkeypatch.setattr(replicas, "REPLICAS", (1, 99))
    monkeypatch.setattr(capacity, "P99_MS", 5_000.0)  # held by a busy machine too
    found = replicas.measure(quiet())
    assert os.sched_getaffinity(0) == every
    one, many = found["replicas"]
    assert one["simulated"]["rate"] < many["simulated"]["rate"] <= 99 / np.mean(found["service_ms"]) * 1e3 + 1
    assert one["why_not_measured"] == why_not(1, len(cores))
    assert bool(one["measured"]) == (not one["why_not_measured"])
    most = 1.5 * one["simulated"]["rate"]
    assert measured_with == ([] if one["why_not_measured"] else [(cores[:1], set(cores[1:]), most)])
    assert "need 100 cores" in many["why_not_measured"]
    assert many["measured"] is None
    assert "| 99 |" in replicas_section(found)
    assert len(found["service_ms"]) == 20


def test_batch_sizes_are_told_apart() -> None:
    def bucket(le: str, n: float) -> tuple[tuple[str, tuple[tuple[str, str], ...]], float]:
        return ("timbre_batch_windows_bucket", (("le", le), ("version", "2"))), n

    counted = dict([bucket("1.0", 3), bucket("2.0", 3), bucket("4.0", 8), bucket("+Inf", 9)])
    assert batching.sizes(counted) == {"1": 3, "4": 5, "more": 1}


def test_the_highest_rate_is_found_by_halving() -> None:
    """Of 160: 80 is too much, 40 and 60 and 70 are held, 75 is not."""
    probed: list[float] = []

    def at(rate: float) -> Json:
        probed.append(rate)
        return {**load(rate, 9.0), "p99_ms": P99_MS + rate - 72}

    assert highest_rate(at, 160) == {"rate": 70, "not_quoted": ""}
    assert probed == [80, 80, 40, 40, 60, 60, 70, 70, 75, 75]  # two that agree decide


def test_two_of_three_probes_decide() -> None:
    """One stall at 80 is forgiven, two at 120 are not, nor where the first probe went well."""
    stalls = {80.0: [True, False, False], 120.0: [False, True, True]}

    def at(rate: float) -> Json:
        stalled = stalls[rate].pop(0) if stalls.get(rate) else False
        return {**load(rate, 9.0), "p99_ms": 900.0 if stalled else 9.0}

    assert highest_rate(at, 160, probes=2) == {"rate": 80, "not_quoted": ""}
    assert stalls == {80.0: [], 120.0: []}


def test_a_held_rate_is_quoted_only_where_the_service_was_the_limit() -> None:
    """Above 100 the generator is late; above 50 the service is slow."""

    def at(rate: float, slow_from: float) -> Json:
        late = {"generator": {"bottleneck": "it was late" if rate > 100 else ""}}
        return {**load(rate, 9.0), "p99_ms": 60.0 if rate > slow_from else 9.0, **late}

    assert highest_rate(lambda rate: at(rate, 1000), 160) == {"rate": 100, "not_quoted": "it was late"}
    assert highest_rate(lambda rate: at(rate, 50), 160)["not_quoted"] == ""


@pytest.mark.parametrize("why", ["late", "errors", "slow", "silent"])
def test_a_rate_is_not_held_for_any_of_these_reasons(why: str) -> None:
    bad: Json = {"late": {"generator": {"bottleneck": "late"}}, "errors": {"errors": 1}}
    bad |= {"slow": {"p99_ms": P99_MS + 1}, "silent": {"p99_ms": 0.0}}
    held = highest_rate(lambda rate: {**load(rate, 9.0), "p99_ms": 40.0, **bad[why]}, 160)
    assert held == {"rate": 0, "not_quoted": "late" if why == "late" else ""}


def test_a_capacity_is_quoted_only_where_the_generator_kept_up() -> None:
    limits = {"core_share": 0.9, "bottleneck": "it took 0.9"}
    loads = [load(100, 9.0, clients=1), load(200, 9.0, clients=8)]
    assert quoted(loads) == {"highest_seen": 200, "per_second": 200, "clients": 8, "not_quoted": ""}
    loads[1]["generator"] = limits
    assert quoted(loads) == {"highest_seen": 200, "per_second": None, "clients": 8, "not_quoted": "it took 0.9"}


def test_the_simulation_waits_as_theory_says() -> None:
    """One server, Poisson arrivals, constant service: the mean wait is rho s / 2 (1 - rho) (Pollaczek-Khinchine)."""
    service_s, rate = 0.01, 70.0
    found = response_s(np.array([service_s]), 1, rate, seed=0, arrivals=200_000)
    rho = rate * service_s
    assert found.mean() == pytest.approx(service_s + rho * service_s / (2 * (1 - rho)), rel=0.03)


def test_a_probe_of_replicas_lasts_until_its_p99_is_more_than_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def loaded(_: Any, rate: float, seconds: float, __: int) -> Any:
        asked.append(rate * seconds)
        return Load(seconds, rate=rate, outcomes=Counter(ok=1), latencies_s=[0.001], own_cpu_s=0.0)

    @contextmanager
    def nobody(*_: Any) -> Iterator[Any]:
        yield SimpleNamespace(port=1)

    for name, stand_in in {"open_loop": loaded, "timbre": nobody, "haproxy": nobody}.items():
        monkeypatch.setattr(replicas, name, stand_in)
    monkeypatch.setattr(replicas, "multipart", lambda *_: None)
    monkeypatch.setattr(replicas, "one_by_one", lambda *_, **__: None)
    found = measured(quiet(scale=1.0), [0], set(), most=40.0)
    assert found["rate"] == 35.0
    assert min(asked) >= 200


def test_more_simulated_replicas_hold_more() -> None:
    rates = [simulated(np.array([0.008, 0.012]), replicas, seed=0)["rate"] for replicas in (1, 2, 4)]
    assert 50 < rates[0] < 100
    assert 2 * rates[0] <= rates[1] <= 2 * 100
    assert 2 * rates[1] <= rates[2] <= 4 * 100


def test_replicas_are_started_where_there_are_cores_for_them_and_haproxy() -> None:
    assert "need 5 cores; here are 2" in why_not(4, 2)
    assert why_not(1, 2) == ("" if shutil.which("haproxy") else "HAProxy is not installed (apt-get install haproxy)")


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy, which is not on this machine")
def test_haproxy_sends_requests_in_turn() -> None:
    with answering() as one, answering() as other, haproxy([one.port, other.port]) as url:
        one_by_one(multipart(url, [b"clip"]), 0.0, least=9)
        assert one.seen == other.seen == 5


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy, which is not on this machine")
def test_a_real_replica_behind_haproxy_has_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    every = os.sched_getaffinity(0)
    core, last = min(every), max(every)
    bound: list[set[int]] = []
    asked: list[set[int]] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        bound.append(options["cores"])
        return serving(*arguments, **options)

    def loaded(*arguments: Any) -> Any:
        asked.append(os.sched_getaffinity(0))
        return open_loop(*arguments)

    monkeypatch.setattr("benchmarks.peers.serving", watched)
    monkeypatch.setattr(replicas, "open_loop", loaded)
    monkeypatch.setattr(capacity, "_PROBES", 1)
    found = measured(quiet(), [core], {last}, most=50.0)
    assert bound == [{core}]
    assert set(map(frozenset, asked)) == {frozenset({last})}
    assert os.sched_getaffinity(0) == every
    assert found["probes"][0]["requests"] > 0


def test_workers_that_outlive_their_server_are_stopped_too() -> None:
    code = (
        "import http.server, subprocess, sys\n"
        "subprocess.Popen(['sleep', '600'])\n"
        "http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind='127.0.0.1')"
    )
    port = free_port()
    with serving([sys.executable, "-c", code, str(port)], port, dict(os.environ), ready="/") as server:
        (worker,) = children(server.process.pid)
    assert until(lambda: not Path(f"/proc/{worker}").exists() or "\nState:\tZ" in _status(worker), 60)


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("grpc", ["none", "127.0.0.1:1"])
def test_transports_that_do_not_answer_are_left_out(
    service: Service, grpc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "CLIENTS", (1,))
    monkeypatch.setattr(capacity, "_FEW", (1,))
    monkeypatch.setattr(capacity, "_PROBES", 1)
    monkeypatch.setattr(latency, "SHARES", (0.5,))
    bench = quiet(url=service.url, grpc=grpc, rounds=1)
    bench.found["capacity"] = found = capacity.measure(bench)
    loads = latency.measure(bench)
    assert found["transports"].keys() == {load["transport"] for load in loads["loads"]} == {MULTIPART, RAW}
    assert found["silent"].keys() == loads["silent"].keys() == {RPC, OIP}
    for why in found["silent"].values():
        assert why == "no gRPC address was given" if grpc == "none" else "asked once, it answered: broken" in why
    assert f"{OIP} was left out: {found['silent'][OIP]}." in capacity_section(found)
    assert f"{RPC} was left out: {found['silent'][RPC]}." in latency_table(loads)


def test_a_load_lasts_until_its_percentiles_can_be_quoted() -> None:
    """At 20 and 50 a second for a p99, at 150 too few come for a p99.9 in time, at 250 they do; one load waits."""
    seconds = [latency._seconds(quiet(scale=1.0), rate) for rate in (20.0, 50.0, 150.0, 250.0)]
    assert seconds == pytest.approx([6.5, 2.6, 1.5, 4.4])
    assert latency._seconds(quiet(scale=1.0), 50.0, whole=True) == pytest.approx(22)
    assert quiet(scale=1.0).seconds_at(1000.0, 3.0) == 3.0
    assert quiet(scale=0.5).seconds_at(10.0, 3.0) == pytest.approx(6.5)


def test_what_a_silent_address_says_is_told() -> None:
    with pytest.raises(RuntimeError, match="does not answer a clip: asked once, it answered: broken"):
        quiet(url="http://127.0.0.1:1", grpc="none").service()


def test_what_several_replicas_count_is_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a balancer /metrics is now one's, now another's: what hangs on it is left out, the rest is measured."""
    monkeypatch.setattr(growth, "LENGTHS_S", (1.0, 3.0))
    monkeypatch.setattr(growth, "RATES_HZ", (8_000,))
    with answering() as server:
        server.replicas = 2
        bench = quiet(url=server.url, grpc="none")
        told = stages.measure(bench)
        grown = growth.measure(bench)
        with pytest.raises(NotHereError, match="as behind a balancer"):
            size.measure(bench)
        soaked = json.loads(soak(bench, tmp_path, seconds=0.5).read_text())
    assert "as behind a balancer" in told["no_stages"]
    assert told["stages_ms"] == {}
    assert told["floor"][0]["requests"] > 0
    assert "No stages: /metrics is now one process's" in stages_section(told)
    assert [one["server_cpu_ms"] for one in grown["lengths"]] == [None, None]
    assert all(one["p50_ms"] > 0 for one in grown["lengths"])
    assert "| 1 | " in growth_section(grown)
    assert soaked["windows"][0]["resident_mb"] is None
    assert "mb_per_hour" not in soaked
    plot({"parts": {"stages": told, "growth": grown}}, tmp_path / "there.json")


def test_a_process_that_was_replaced_meanwhile_is_no_change() -> None:
    began = ("process_start_time_seconds", ())
    assert change({began: 1.0}, {began: 1.0})[began] == 0
    with pytest.raises(NotHereError):
        change({began: 1.0}, {began: 2.0})


def test_a_service_elsewhere_has_its_grpc_beside_it() -> None:
    assert Target.at("http://somewhere:3000/", "").grpc == "somewhere:3001"
    assert Target.at("http://somewhere", "other:9").grpc == "other:9"
    assert Target.at("http://somewhere", "none").grpc == ""
