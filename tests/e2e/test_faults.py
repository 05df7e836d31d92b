"""What breaks around the service: what a client sees of it, what the log and the metrics say, and that it passes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnx
import pytest

from serving.errors import InvalidFeedback
from serving.feedback import Feedback, Seen
from serving.metrics import Metrics
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub
from tests.conftest import ROOT
from tests.e2e.test_load import codes, send
from tests.hostile import sounds
from tests.models import copy_versions, rewrite
from tests.service import (
    Service,
    children,
    environment,
    free_port,
    metric,
    running,
    start_process,
    until,
    wait_until_ready,
)
from tests.sounds import encode, voice

WAV = encode(voice(1.0), 16_000)
LOUD = encode((voice(1.0) / np.abs(voice(1.0)).max()).clip(-0.99, 0.99), 16_000)


def ask(service: Service, data: bytes = WAV) -> httpx.Response:
    return httpx.post(f"{service.url}/predict", files={"file": data}, timeout=120)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return copy_versions(tmp_path, "2")


def route(models: Path, version: str) -> None:
    """What answers from now on, as an operator says it: replaced whole."""
    (models / "next").write_text(f'default: stable\nvariants:\n  stable: {{version: "{version}", weight: 1}}\n')
    (models / "next").replace(models / "routes.yaml")


def spoil(how: str, file: Path) -> None:
    match how:
        case "deleted":
            file.unlink()
        case "truncated":
            os.truncate(file, file.stat().st_size // 2)
        case "swapped":
            file.write_bytes(b"no model")


def test_a_model_file_that_is_spoiled_while_it_serves_is_not_looked_at(models: Path, tmp_path: Path) -> None:
    """What is loaded answers on; what is asked for anew is refused whole, told, and mended by a good file."""
    route(models, "1")
    files = {version: models / version / "model.onnx" for version in "12"}
    good = {version: file.read_bytes() for version, file in files.items()}
    loaded, other = "1", "2"
    with (
        running(tmp_path / "log.txt", models=models) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        for how in ("deleted", "truncated", "swapped"):
            for file in files.values():
                spoil(how, file)
            assert ask(service).json()["model_version"] == loaded
            before = metric(client, "timbre_load_failures_total")
            told = service.log.read_text().count(str(files[other]))
            route(models, other)
            assert until(lambda: metric(client, "timbre_load_failures_total") > before)  # noqa: B023 - asked at once
            assert ask(service).json()["model_version"] == loaded
            assert metric(client, "timbre_routes_current") == 0
            assert str(files[other]) in client.get("/models").json()["problem"]
            assert service.log.read_text().count(str(files[other])) > told
            files[other].write_bytes(good[other])
            route(models, loaded)
            assert until(lambda: metric(client, "timbre_routes_current") == 1)
            route(models, other)
            assert until(lambda: ask(service).json()["model_version"] == other)  # noqa: B023 - asked at once
            files[loaded].write_bytes(good[loaded])
            loaded, other = other, loaded


def fails_when_loud(graph: onnx.ModelProto) -> None:
    """ONNX Runtime throws in the middle of a pass that holds a sample above 0.9: an index that does not exist."""
    make, nodes = onnx.helper.make_node, graph.graph.node
    constants = {"limit": np.float32(0.9), "one": np.array([1.0], np.float32), "far": np.int64(1_000_000)}
    for name, value in constants.items():
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), f"fault_{name}"))
    waveform, output = graph.graph.input[0].name, graph.graph.output[0].name
    for node in nodes:
        for index, name in enumerate(node.output):
            if name == output:
                node.output[index] = "before_fault"
    nodes.append(make("ReduceMax", [waveform], ["fault_peak"], keepdims=0))
    nodes.append(make("Greater", ["fault_peak", "fault_limit"], ["fault_loud"]))
    nodes.append(make("Cast", ["fault_loud"], ["fault_number"], to=onnx.TensorProto.INT64))
    nodes.append(make("Mul", ["fault_number", "fault_far"], ["fault_index"]))
    nodes.append(make("Gather", ["fault_one", "fault_index"], ["fault_factor"]))
    nodes.append(make("Mul", ["before_fault", "fault_factor"], [output]))


def test_who_makes_the_runtime_throw_fails_alone(models: Path, tmp_path: Path) -> None:
    rewrite(models / "2", fails_when_loud)
    route(models, "2")
    with (
        running(tmp_path / "log.txt", models=models, max_batch=16) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        outcomes: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: outcomes.append(ask(service, LOUD))) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert codes(send(service.url, 16, WAV, repeat=3)) == {"ok": 48}
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in outcomes] == [500] * 4
        assert metric(client, "timbre_requests_total", code="internal") == 4
        assert "Gather" in service.log.read_text() or "indices" in service.log.read_text()
        assert all(f"Request {answer.headers['X-Request-ID']} failed" in service.log.read_text() for answer in outcomes)
        assert until(lambda: client.get("/readyz").status_code == 200)
        assert metric(client, "timbre_inflight") == 0


def faults(service: Service, trace: dict[str, str]) -> Iterator[str]:
    """The ids that the clients of each transport get of a fault."""
    answer = httpx.post(f"{service.url}/predict", content=LOUD, headers={"Content-Type": "audio/wav", **trace})
    assert answer.json()["error"]["request_id"] == answer.headers["X-Request-ID"]
    yield answer.headers["X-Request-ID"]
    data = [base64.b64encode(LOUD).decode()]
    infer = {"inputs": [{"name": "audio", "datatype": "BYTES", "shape": [1], "data": data}]}
    answer = httpx.post(f"{service.url}/v2/models/timbre/infer", json=infer, headers=trace)
    assert answer.headers["X-Request-ID"] in answer.json()["error"]
    yield answer.headers["X-Request-ID"]
    with grpc.insecure_channel(service.grpc) as channel, pytest.raises(grpc.RpcError) as error:
        TimbreStub(channel).Predict(pb.PredictRequest(audio=LOUD), timeout=60, metadata=tuple(trace.items()))
    assert error.value.code() is grpc.StatusCode.INTERNAL
    call: Any = error.value  # its types know no pairs
    told = dict(call.trailing_metadata())["x-request-id"]
    assert told in call.details()
    yield told


@pytest.mark.parametrize("workers", [1, 2])
def test_a_client_finds_its_fault_in_the_log(models: Path, tmp_path: Path, workers: int) -> None:
    """By the id that it got, its trace's where it has brought one that is one; whole, whichever process it met."""
    rewrite(models / "2", fails_when_loud)
    route(models, "2")
    trace, name = "0af7651916cd43dd8448eb211c80319c", "traceparent"
    with running(tmp_path / "log.txt", models=models, log="json", workers=workers) as service:
        none, of_ours, traced = [
            list(faults(service, sent))
            for sent in ({}, {name: f"00-{trace}-x"}, {name: f"00-{trace}-b7ad6b7169203331-01"})
        ]
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    logged = [line["request_id"] for line in lines if "request_id" in line]
    assert logged == [*none, *of_ours, *traced]
    assert traced == [trace] * 3
    assert len({*none, *of_ours, trace}) == 7
    for line in lines:
        assert ("exception" in line) == ("request_id" in line)  # once, and of nothing else
        assert "exception" not in line or line["exception"].startswith("Traceback (")


@contextlib.contextmanager
def started(
    log: Path, prefix: list[str], limits: Callable[[], None] | None = None, **settings: str
) -> Iterator[Service]:
    """The service under another program, or with limits of its own."""
    usual = {"port": str(free_port()), "grpc_port": str(free_port()), "drain_s": "0"}
    env = environment(**(usual | settings))
    service = start_process(log, env, prefix=prefix, limits=limits)
    try:
        wait_until_ready(service)
        yield service
    finally:
        if service.process.poll() is None:
            service.stop()


def nothing_may_be_written() -> None:
    """As on a full disk: no file can grow, whoever writes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def test_a_full_disk_is_not_missed(tmp_path: Path) -> None:
    with started(tmp_path / "log.txt", [], nothing_may_be_written) as service:
        for data, status in ((WAV, 200), (b"\xff\xfb\x90\xc4" * 500, 415), (encode(voice(70.0), 16_000, "FLAC"), 200)):
            assert ask(service, data).status_code == status
        with httpx.Client(base_url=service.url) as client:
            assert metric(client, "timbre_requests_total", code="ok") == 2
            assert metric(client, "timbre_requests_total", code="unsupported_audio") == 1
        assert service.stop() in (0, 120)  # the last words had no place to go to; Python's own status for that


def fill_up(file: Path) -> None:
    """All that a disk has left."""
    with file.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while out.write(bytes(1 << 12)):
            pass


def unshared(*arguments: str, what: str) -> list[str]:
    """A command that runs another one apart from this machine; the test is skipped where it may not."""
    command = ["unshare", *arguments]
    tried = [*command, "true"]
    allowed = shutil.which("unshare") and subprocess.run(tried, capture_output=True, check=False).returncode == 0
    if not allowed:
        pytest.skip(f"needs the right to {what}, which is not given here")
    return command


def test_workers_go_on_counting_on_a_full_disk_and_a_new_one_says_what_it_lacks(tmp_path: Path) -> None:
    """They count in files; the disk is one of memory, which only they have."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=16m tmpfs {disk} && exec "$@"'
    own_disk = unshared("--mount", "sh", "-c", mount, "sh", what="give one process a file system of its own")
    prefix = [*own_disk, "env", f"TMPDIR={disk}"]
    with (
        started(tmp_path / "log.txt", prefix, workers="2") as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        assert until(lambda: service.log.read_text().count("answers at") == 2, 60)
        full = Path(f"/proc/{service.process.pid}/root{disk}/full")
        fill_up(full)
        for _ in range(8):  # each over a connection of its own, so that both have their share
            for data, status in ((WAV, 200), (b"nothing", 415), (sounds()["m4a"], 200)):
                assert ask(service, data).status_code == status
        assert metric(client, "timbre_requests_total", code="ok") == 16
        assert "died" not in service.log.read_text()
        os.kill(children(service.process.pid)[0], signal.SIGKILL)
        assert until(lambda: "has no room for the 5 MiB in which a worker counts" in service.log.read_text(), 60)
        assert until(lambda: ask(service).status_code == 200)
        full.unlink()
        assert until(lambda: service.log.read_text().count("answers at") == 3, 90)
        assert metric(client, "timbre_requests_total", code="ok") >= 17  # those of the dead one are not lost


def test_a_file_system_that_may_only_be_read_is_enough(tmp_path: Path) -> None:
    remount = 'mount -o remount,ro,bind / && exec "$@"'
    read_only = unshared("--mount", "sh", "-c", remount, "sh", what="make a file system read-only for one process")
    with started(tmp_path / "log.txt", read_only) as service:
        assert ask(service).status_code == 200
        answer = ask(service)
        told = {"request_id": answer.headers["X-Request-ID"], "emotion": answer.json()["emotion"]}
        assert httpx.post(f"{service.url}/feedback", json=told).json()["counted"]
        assert "Traceback" not in service.log.read_text()


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def test_with_256_descriptors_who_is_in_is_answered_and_the_rest_told(tmp_path: Path) -> None:
    with started(tmp_path / "log.txt", [], few_descriptors, head_timeout_s="120", grpc_port="0") as service:
        with httpx.Client(base_url=service.url, timeout=60) as inside, contextlib.ExitStack() as stack:
            assert inside.post("/predict", files={"file": WAV}).status_code == 200
            crowd = [stack.enter_context(service.connect()) for _ in range(300)]
            assert inside.post("/predict", files={"file": WAV}).status_code == 200
            turned_away = crowd[-1].recv(1 << 16)
            assert turned_away.startswith(b"HTTP/1.1 429")
            assert b"retry-after: 1" in turned_away
            assert b'"reason": "connections"' in turned_away
            # 192 may be in, one of them ours; one that made the service ready may not be gone yet.
            assert 109 <= metric(inside, "timbre_rejects_total", reason="connections") <= 110
        assert until(lambda: ask(service).status_code == 200)
        assert ask(service, sounds()["m4a"]).status_code == 200
        assert "Traceback" not in service.log.read_text()


def test_of_256_descriptors_grpc_takes_half_at_most(tmp_path: Path) -> None:
    with started(tmp_path / "log.txt", [], few_descriptors) as service, contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(service.connect_grpc())
        assert ask(service).status_code == 200
        assert ask(service, sounds()["m4a"]).status_code == 200
        assert "Traceback" not in service.log.read_text()


@pytest.fixture
def little_memory() -> Iterator[list[str]]:
    """A command that runs another with 400 MB of memory, by a control group of either version."""
    root = Path("/sys/fs/cgroup")
    unified = (root / "cgroup.controllers").exists()
    group = (root if unified else root / "memory") / f"timbre-{os.getpid()}"
    limit, events = ("memory.max", "memory.events") if unified else ("memory.limit_in_bytes", "memory.oom_control")
    try:
        group.mkdir()
        if not (group / limit).exists():
            group.rmdir()
            pytest.skip("needs the right to limit memory by a control group, which is not given here")
        (group / limit).write_text(str(400 << 20))
    except OSError as error:
        pytest.skip(f"needs the right to limit memory by a control group, which is not given here: {error}")
    yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    assert until(lambda: not (group / "cgroup.procs").read_text())
    killed = [line for line in (group / events).read_text().splitlines() if line.startswith("oom_kill ")]
    group.rmdir()
    assert killed in ([], ["oom_kill 0"])


def test_400_megabytes_are_enough_for_whatever_may_be_sent(little_memory: list[str], tmp_path: Path) -> None:
    """Ten minutes are 400 windows, a batch at a time, and 38 MB of samples; what is too much together is refused."""
    ten_minutes = encode(voice(600.0), 16_000, "FLAC")
    with started(tmp_path / "log.txt", little_memory, max_held_mib="64", max_decoded_mib="64") as service:
        answer = ask(service, ten_minutes)
        assert (answer.status_code, len(answer.json()["segments"])) == (200, 399)
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(ask(service, ten_minutes).status_code)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) <= {200, 429, 504}
        assert ask(service).status_code == 200


ALONE = """
import fcntl, json, os, socket, struct, sys
from pathlib import Path
from typing import Any
with socket.socket() as probe:  # ifconfig lo up
    fcntl.ioctl(probe, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
import httpx
from tests.service import running
from tests.sounds import encode, voice
with running(Path(sys.argv[1])) as service:
    answer = httpx.post(f"{service.url}/predict", files={"file": encode(voice(1.0), 16_000)}, timeout=60)
    print(json.dumps(answer.status_code))
"""


def test_without_a_network_nothing_is_missing(tmp_path: Path) -> None:
    alone = unshared("--net", what="take the network from one process")
    command = [*alone, sys.executable, "-c", ALONE, str(tmp_path / "log.txt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == 200


def test_no_wait_and_no_age_is_measured_by_a_clock_that_can_be_set() -> None:
    """The wall clock is for ids, which carry a date, and for spans."""
    may_look = {"feedback.py", "tracing.py"}
    for path in (ROOT / "serving").rglob("*.py"):
        assert path.name in may_look or "time.time" not in path.read_text(), path


def test_a_clock_that_jumps_spoils_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id from before a jump is taken or refused in our words, whichever way the clock went."""
    now_s = time.time()
    feedback = Feedback("secret", Metrics(), Seen(None))
    request_id = feedback.issue("stable", "1", "calm")
    for jump_s, taken in ((3600, True), (-3600, False), (2 * 86_400, False), (0, True)):
        monkeypatch.setattr(time, "time", lambda jump_s=jump_s: now_s + jump_s)
        if taken:
            assert feedback.take(request_id, "calm", ("calm",)).agreed
        else:
            with pytest.raises(InvalidFeedback):
                feedback.take(request_id, "calm", ("calm",))


def test_nobody_notices_that_the_clock_of_a_running_service_jumps(tmp_path: Path) -> None:
    """The wall clock, an hour and a day both ways, by libfaketime; the other one never does."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("needs Debian's faketime, which is not on this machine")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": clock, "FAKETIME_NO_CACHE": 1}
    prefix = ["env", *(f"{name}={value}" for name, value in faked.items()), "FAKETIME_DONT_FAKE_MONOTONIC=1"]
    with (
        started(tmp_path / "log.txt", prefix) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):

        def jumped(hours: int) -> bool:
            there = f"{datetime.now(UTC) + timedelta(hours=hours):%a, %d %b %Y %H}"
            return client.get("/livez").headers["date"].startswith(there)

        for hours in (0, 1, -1, 24, -24, 0):
            clock.write_text(f"{hours:+}h")
            assert until(lambda hours=hours: jumped(hours))  # type: ignore[misc]
            answer = ask(service)
            told = {"request_id": answer.headers["X-Request-ID"], "emotion": answer.json()["emotion"]}
            assert client.post("/feedback", json=told).json()["counted"]
            assert codes(send(service.url, 4, WAV, repeat=2)) == {"ok": 8}
            assert metric(client, "timbre_stage_seconds_sum", stage="total") >= 0
            assert client.get("/readyz").status_code == 200
        assert metric(client, "timbre_requests_total", code="ok") == 6 * 9
        assert metric(client, "timbre_stage_seconds_sum", stage="total") < 6 * 60
        assert "Traceback" not in service.log.read_text()
