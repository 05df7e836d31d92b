"""Several processes as one service: they share a port, a restart harms nobody, and their metrics add up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_load import codes, send
from tests.service import Service, children, metric, running, until
from tests.sounds import encode, voice

WAV = encode(voice(1.0), 16_000)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("workers") / "log.txt", workers=2) as service:
        assert until(lambda: service.log.read_text().count("answers at") == 2)
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


def test_a_worker_that_is_killed_is_replaced(service: Service) -> None:
    before = children(service.process.pid)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    assert until(lambda: len(set(children(service.process.pid)) - set(before)) == 1)
    assert until(lambda: service.log.read_text().count("answers at") == 3)
    assert "died with status -9; another is started" in service.log.read_text()
    assert codes(send(service.url, 8, WAV, repeat=2)) == {"ok": 16}
    with httpx.Client(base_url=service.url) as client:
        assert metric(client, "timbre_permits") == 256


def test_all_workers_stop_when_it_is_told_to(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", workers=2) as service:
        workers = children(service.process.pid)
        assert service.stop() == 0
        time.sleep(0.1)
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
