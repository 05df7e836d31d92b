"""Several processes as one service: they share a port, a restart harms nobody, and their metrics add up.

Clients that open a connection for each request meet every process that takes any.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest

from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub
from tests.e2e.test_load import codes, send
from tests.models import copy_versions, costly
from tests.service import Service, children, environment, free_port, metric, refusal, running, start_process, until
from tests.sounds import encode, voice
from tests.steady import Steady

WAV = encode(voice(1.0), 16_000)
HEADERS = {"Content-Type": "audio/wav"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("workers") / "log.txt", workers=2) as service:
        assert until(lambda: ready(service) == 2)
        yield service


def fresh(url: str, path: str) -> httpx.Response:
    """Over a connection of its own, so that any worker may answer."""
    return httpx.get(f"{url}{path}", timeout=30)


def test_metrics_add_up_whichever_worker_is_asked(service: Service) -> None:
    assert codes(send(service.url, 10, WAV, repeat=6)) == {"ok": 60}
    for _ in range(10):
        with httpx.Client(base_url=service.url) as client:
            assert metric(client, "timbre_requests_total", code="ok") == 60
            assert metric(client, "timbre_stage_seconds_count", stage="total") == 60
            assert metric(client, "timbre_permits") == 256
            assert metric(client, "timbre_inflight") == 0
            assert metric(client, "timbre_route_weight", variant="stable") == 100
        assert fresh(service.url, "/experiments").json()["variants"][0]["requests"] == 60


def test_feedback_counts_once_in_all_workers(service: Service) -> None:
    answer = httpx.post(f"{service.url}/predict", content=WAV, headers={"Content-Type": "audio/wav"})
    told = {"request_id": answer.headers["X-Request-ID"], "emotion": answer.json()["emotion"]}
    counted = [httpx.post(f"{service.url}/feedback", json=told).json()["counted"] for _ in range(12)]
    assert counted == [True] + 11 * [False]


def ask_http(service: Service) -> None:
    httpx.post(f"{service.url}/predict", content=WAV, headers=HEADERS, timeout=30).raise_for_status()


def ask_grpc(service: Service) -> None:
    with grpc.insecure_channel(service.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        TimbreStub(channel).Predict(pb.PredictRequest(audio=WAV), timeout=30)


def ready(service: Service) -> int:
    """How many times a worker has said that it answers."""
    return service.log.read_text().count("answers at")


def test_a_worker_that_is_killed_is_replaced_and_only_what_it_did_is_lost(service: Service) -> None:
    before = children(service.process.pid)
    assert len(before) == 2
    asks = [partial(ask, service) for ask in (ask_http, ask_http, ask_grpc, ask_grpc)]
    with Steady(asks, pause_s=0.01) as clients:
        for turn, pid in enumerate(before, 1):
            time.sleep(0.5)
            failed = len(clients.failed)
            os.kill(pid, signal.SIGKILL)
            assert until(lambda turn=turn: ready(service) == 2 + turn, seconds=180)  # type: ignore[misc]
            time.sleep(0.5)
            # Each client has one request under way: nobody is told to come again, and nobody fails twice.
            assert len(clients.failed) - failed <= len(asks)
    assert not [failure for failure in clients.failed if "503" in failure or "starting" in failure], clients.failed
    assert min(clients.answered[ask] for ask in asks) > 10
    assert not set(children(service.process.pid)) & set(before)
    assert service.log.read_text().count("died with status -9; another is started") == 2
    assert codes(send(service.url, 8, WAV, repeat=2)) == {"ok": 16}
    with httpx.Client(base_url=service.url) as client:
        assert metric(client, "timbre_permits") == 256


def test_while_it_starts_it_says_so_and_once_it_is_ready_nobody_is_told_so_again(tmp_path: Path) -> None:
    models = copy_versions(tmp_path, "2", change=costly(20))  # whose warm-up takes a second or so
    service = start_process(
        tmp_path / "log.txt", environment(port=free_port(), drain_s=0, models=models, workers=2, max_batch=1)
    )
    told: list[tuple[int, str]] = []

    def is_ready() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = fresh(service.url, "/readyz")
            told.append((answer.status_code, answer.json().get("error", {}).get("code", "ok")))
            assert fresh(service.url, "/livez").is_success
        return (200, "ok") in told

    try:
        assert until(is_ready, seconds=120)
        assert set(told[:-1]) == {(503, "starting")}
        assert ready(service) == 1
        told.clear()
        assert until(lambda: is_ready() and ready(service) == 2, seconds=120)  # while the other starts
        assert len(told) > 1
        assert set(told) == {(200, "ok")}
    finally:
        assert service.stop() == 0


def test_what_cannot_start_is_told_once(tmp_path: Path) -> None:
    result = refusal(models=tmp_path, workers=2)
    assert result.returncode == 1
    assert result.stderr.count("Timbre does not start.") == 1
    assert f"{tmp_path}: no exported version here" in result.stderr


def test_workers_stop_when_nobody_is_left_to_stop_them(tmp_path: Path) -> None:
    service = start_process(tmp_path / "log.txt", environment(port=free_port(), drain_s=0, workers=2))
    assert until(lambda: ready(service) == 2, seconds=120)
    workers = children(service.process.pid)
    service.process.kill()
    service.process.wait()
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), seconds=30)


def test_at_a_stop_what_is_in_flight_is_answered_nothing_new_is_taken_and_every_worker_stops(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", workers=2) as service, service.connect() as slow:
        assert until(lambda: ready(service) == 2, seconds=180)
        workers = children(service.process.pid)
        head = f"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: audio/wav\r\nContent-Length: {len(WAV)}\r\n\r\n"
        slow.sendall(head.encode() + WAV[:1000])
        with httpx.Client(base_url=service.url) as client:
            assert until(lambda: metric(client, "timbre_upload_bytes") == 1000)
        service.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                service.connect().close()
            except ConnectionRefusedError:
                return True
            return False

        assert until(refused)
        slow.sendall(WAV[1000:])
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert service.process.wait(60) == 0
        assert len(workers) == 2
        assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
