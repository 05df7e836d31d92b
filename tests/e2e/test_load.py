"""More work than there is room for: what is refused, how fast, and that the rest is answered."""

from __future__ import annotations

import asyncio
import operator
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx
import pytest

from tests.models import copy_versions, costly
from tests.service import Service, metric, running, until
from tests.sounds import encode, voice

WAV = encode(voice(2.0), 16_000)
LONG = encode(voice(240.0), 16_000)
AUDIO = {"Content-Type": "audio/wav"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 2 takes some hundred milliseconds for each batch."""
    return copy_versions(tmp_path_factory.mktemp("load"), "2", change=costly(20))


@pytest.fixture(scope="module")
def brisk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that takes a tenth of a second, which is long beside a refusal."""
    return copy_versions(tmp_path_factory.mktemp("brisk"), "2", change=costly(5))


def send(url: str, at_once: int, data: bytes = WAV, repeat: int = 1) -> list[httpx.Response]:
    """So many clients, each sending one request after the other."""

    async def client(session: httpx.AsyncClient) -> list[httpx.Response]:
        return [
            await session.post(f"{url}/predict", content=data, headers={"Content-Type": "audio/wav"})
            for _ in range(repeat)
        ]

    async def everybody() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=60, limits=limits) as session:
            answers = await asyncio.gather(*(client(session) for _ in range(at_once)))
        return [response for own in answers for response in own]

    return asyncio.run(everybody())


def codes(responses: list[httpx.Response]) -> Counter[str]:
    return Counter("ok" if r.is_success else r.json()["error"]["code"] for r in responses)


def test_the_first_burst_after_the_start_is_answered_like_any_other(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt") as service:
        assert codes(send(service.url, 64, repeat=2)) == {"ok": 128}


@pytest.fixture
def slow(models: Path, tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path / "log.txt", models=models, max_inflight=4, timeout_s=120) as service:
        yield service


@pytest.mark.alone
def test_beyond_the_permits_requests_are_refused_at_once_and_the_others_answered(slow: Service) -> None:
    responses = send(slow.url, 40)
    assert codes(responses)["ok"] >= 4
    refused = [response for response in responses if response.status_code == 429]
    assert len(refused) + codes(responses)["ok"] == 40
    assert refused
    for response in refused:
        error = response.json()["error"]
        assert (error["code"], error["reason"]) == ("overloaded", "permits")
        assert response.headers["retry-after"] == "1"
    # All were sent at once: whoever is refused hears of it before any of those that are admitted is answered.
    answered = [response for response in responses if response.is_success]
    times_s = [[response.elapsed.total_seconds() for response in group] for group in (refused, answered)]
    assert median(times_s[0]) < min(times_s[1])
    with httpx.Client(base_url=slow.url) as client:
        assert metric(client, "timbre_rejects_total", reason="permits") == len(refused)
        assert metric(client, "timbre_permits") == 4
        assert metric(client, "timbre_inflight") == 0


@dataclass
class Crowd:
    """Seconds to the answer, of clients who ask again and again."""

    admitted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    nothing: list[float] = field(default_factory=list)
    """Of a path that does nothing at all: what HTTP itself takes on this machine meanwhile."""

    def gather(self, url: str, clients: int, seconds: float) -> None:
        """So many clients for so long."""
        asyncio.run(self._gather(url, clients, time.perf_counter() + seconds))

    async def _gather(self, url: str, clients: int, end: float) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=None)) as session:
            await asyncio.gather(self._idler(session, end), *(self._client(session, end) for _ in range(clients)))

    async def _client(self, session: httpx.AsyncClient, end: float) -> None:
        while (sent := time.perf_counter()) < end:
            response = await session.post("/predict", content=WAV, headers={"Content-Type": "audio/wav"})
            took_s = time.perf_counter() - sent
            if response.is_success:
                self.admitted.append(took_s)
            else:
                assert response.status_code == 429
                self.refused.append(took_s)
                await asyncio.sleep(0.1)  # a tenth of what it is asked to wait

    async def _idler(self, session: httpx.AsyncClient, end: float) -> None:
        while (sent := time.perf_counter()) < end:
            # A connection of its own each time, as one who was refused has.
            (await session.get("/livez", headers={"Connection": "close"})).raise_for_status()
            self.nothing.append(time.perf_counter() - sent)
            await asyncio.sleep(0.1)


@pytest.mark.alone
def test_refusals_are_quick_and_whoever_is_admitted_keeps_his_latency(brisk: Path, tmp_path: Path) -> None:
    """Ratios within one run; what they are in milliseconds stands in benchmarks/results.

    As many as there are permits and a crowd in turn, and of several such rounds the best: what else the machine does
    falls on some, what the service does wrong on all. What a refusal costs, test_early measures.
    """
    permits = 4
    limits = (4, 1 / 2, 2)  # without permits, four times as many would wait four times as long
    rounds: list[tuple[float, float, float]] = []

    def best() -> tuple[float, ...]:
        return tuple(map(min, zip(*rounds, strict=True)))

    with running(tmp_path / "log.txt", models=brisk, max_inflight=permits, max_batch=1, timeout_s=120) as service:
        for _ in range(6):
            quiet, busy = Crowd(), Crowd()
            quiet.gather(service.url, permits, seconds=1.5)
            busy.gather(service.url, 4 * permits, seconds=1.5)
            assert quiet.refused == []
            refused, admitted = median(busy.refused), median(busy.admitted)
            # What a refusal takes beside nothing at all and beside an answer; an answer beside one of the quiet.
            rounds.append((refused / median(busy.nothing), refused / admitted, admitted / median(quiet.admitted)))
            if all(map(operator.lt, best(), limits)):
                break
    assert all(map(operator.lt, best(), limits)), rounds


def test_a_deadline_that_passes_is_told_and_its_work_is_dropped(models: Path, tmp_path: Path) -> None:
    with (
        running(tmp_path / "log.txt", models=models, timeout_s=4, max_batch=1) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        (late,) = send(service.url, 1, LONG)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert until(lambda: metric(client, "timbre_queue_windows", version="2") == 0)
        # 159 windows at a tenth of a second and more would keep it busy for long: they are not run any more.
        assert metric(client, "timbre_batch_windows_sum", version="2") < 120
        assert until(lambda: send(service.url, 1)[0].is_success)


def test_what_a_client_that_left_had_asked_for_is_not_computed(models: Path, tmp_path: Path) -> None:
    with (
        running(tmp_path / "log.txt", models=models, max_batch=1) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        with service.connect() as leaving:
            lines = ("POST /predict HTTP/1.1", "Host: test", "Content-Type: audio/wav", f"Content-Length: {len(LONG)}")
            leaving.sendall("\r\n".join([*lines, "\r\n"]).encode() + LONG)
            assert until(lambda: metric(client, "timbre_batch_windows_sum", version="2") > 0)
        assert until(lambda: metric(client, "timbre_inflight") == 0)
        assert metric(client, "timbre_batch_windows_sum", version="2") < 39
        assert metric(client, "timbre_requests_total", code="cancelled", version="2") == 1
        assert "Traceback" not in service.log.read_text()


def test_a_long_recording_does_not_hold_up_short_ones(models: Path, tmp_path: Path) -> None:
    """Told by how many of its windows are heard until the short one is answered, whatever the time that takes."""
    two_minutes = encode(voice(120.0), 16_000)
    with (
        running(tmp_path / "log.txt", models=models, timeout_s=300, max_batch=4) as service,
        httpx.Client(base_url=service.url, timeout=300) as client,
        ThreadPoolExecutor(1) as other,
    ):

        def heard() -> float:
            return metric(client, "timbre_batch_windows_sum", version="2")

        long = other.submit(httpx.post, f"{service.url}/predict", content=two_minutes, headers=AUDIO, timeout=300)
        assert until(lambda: heard() > 0)
        before = heard()
        assert client.post("/predict", content=WAV, headers=AUDIO).is_success
        # It waits for the batch that runs and the one it goes with, not for all twenty.
        assert heard() - before < 40
        assert long.result().is_success
