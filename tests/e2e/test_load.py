"""More work than there is room for: what is refused, how fast, and that the rest is answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx
import pytest

from tests.models import add_version, copy_versions, costly
from tests.service import Service, metric, running, until
from tests.sounds import encode, voice

WAV = encode(voice(2.0), 16_000)
LONG = encode(voice(60.0), 16_000)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 2 takes some hundred milliseconds for each batch."""
    models = copy_versions(tmp_path_factory.mktemp("load"))
    add_version(models, "2", costly(20))
    return models


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
        assert codes(send(service.url, 64, repeat=5)) == {"ok": 320}


@pytest.fixture
def slow(models: Path, tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path / "log.txt", models=models, max_inflight=4, timeout_s=20) as service:
        yield service


@pytest.mark.alone
def test_beyond_the_permits_requests_are_refused_at_once_and_the_others_answered(slow: Service) -> None:
    started = time.monotonic()
    responses = send(slow.url, 40)
    all_s = time.monotonic() - started
    assert codes(responses)["ok"] >= 4
    refused = [response for response in responses if response.status_code == 429]
    assert len(refused) + codes(responses)["ok"] == 40
    assert refused
    for response in refused:
        error = response.json()["error"]
        assert (error["code"], error["reason"]) == ("overloaded", "permits")
        assert response.headers["retry-after"] == "1"
    # All were sent at once: whoever is refused hears of it long before those that are admitted are answered.
    assert max(response.elapsed.total_seconds() for response in refused) < all_s
    with httpx.Client(base_url=slow.url) as client:
        assert metric(client, "timbre_rejects_total", reason="permits") == len(refused)
        assert metric(client, "timbre_permits") == 4
        assert metric(client, "timbre_inflight") == 0


async def crowd(url: str, clients: int, seconds: float) -> tuple[list[float], list[float]]:
    """So many clients for so long; seconds to the answer of who was admitted, and of who was refused."""
    admitted: list[float] = []
    refused: list[float] = []
    end = time.perf_counter() + seconds

    async def client(session: httpx.AsyncClient) -> None:
        while (sent := time.perf_counter()) < end:
            response = await session.post("/predict", content=WAV, headers={"Content-Type": "audio/wav"})
            took_s = time.perf_counter() - sent
            if response.is_success:
                admitted.append(took_s)
            else:
                assert response.status_code == 429
                refused.append(took_s)
                await asyncio.sleep(0.1)  # a tenth of what it is asked to wait

    async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=None)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return admitted, refused


@pytest.mark.alone
def test_refusals_are_quick_and_whoever_is_admitted_keeps_his_latency(models: Path, tmp_path: Path) -> None:
    """Ratios within one run; what they are in milliseconds stands in benchmarks/results."""
    permits = 4
    with running(tmp_path / "log.txt", models=models, max_inflight=permits, max_batch=1, timeout_s=120) as service:
        lone = [answer.elapsed.total_seconds() for answer in send(service.url, 1, repeat=5)]
        quiet: list[float] = []
        busy: list[float] = []
        refused: list[float] = []
        for _ in range(2):  # in turn, so that whatever else the machine does falls on both
            without, nobody = asyncio.run(crowd(service.url, permits, seconds=3))
            assert nobody == []
            quiet += without
            admitted, turned_away = asyncio.run(crowd(service.url, 4 * permits, seconds=3))
            busy += admitted
            refused += turned_away
    assert median(refused) < median(lone) / 4
    # Without permits, four times as many would wait four times as long.
    assert median(busy) < 2 * median(quiet)


def test_a_full_queue_is_told_as_such_even_where_it_takes_the_last_permit(models: Path, tmp_path: Path) -> None:
    with (
        running(tmp_path / "log.txt", models=models, max_inflight=2, max_queue=1, max_batch=1) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
        ThreadPoolExecutor(1) as another,
    ):
        long = another.submit(send, service.url, 1, LONG)  # it may be longer than the queue, since it waits alone
        assert until(lambda: metric(client, "timbre_queue_windows", version="2") > 0)
        (refused,) = send(service.url, 1)
        assert refused.json()["error"]["reason"] == "queue"
        assert metric(client, "timbre_rejects_total", reason="queue") == 1
        assert metric(client, "timbre_rejects_total", reason="permits") == 0
        assert long.result()[0].is_success


def test_a_deadline_that_passes_is_told_and_its_work_is_dropped(models: Path, tmp_path: Path) -> None:
    with (
        running(tmp_path / "log.txt", models=models, timeout_s=0.5, max_batch=1) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        (late,) = send(service.url, 1, LONG)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert until(lambda: metric(client, "timbre_queue_windows", version="2") == 0)
        # 39 windows at a tenth of a second and more would keep it busy for long: they are not run any more.
        assert metric(client, "timbre_batch_windows_sum", version="2") < 30
        assert until(lambda: send(service.url, 1)[0].is_success)


def test_what_a_client_that_left_had_asked_for_is_not_computed(models: Path, tmp_path: Path) -> None:
    with (
        running(tmp_path / "log.txt", models=models, max_batch=1) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{service.url}/predict", content=LONG, headers={"Content-Type": "audio/wav"}, timeout=1)
        assert until(lambda: metric(client, "timbre_inflight") == 0)
        assert metric(client, "timbre_batch_windows_sum", version="2") < 39
        assert "Traceback" not in service.log.read_text()


@pytest.mark.alone
def test_a_long_recording_does_not_hold_up_short_ones(models: Path, tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", models=models) as service:

        async def both() -> tuple[float, float]:
            async def one(data: bytes) -> float:
                started = time.monotonic()
                response = await client.post("/predict", content=data, headers={"Content-Type": "audio/wav"})
                assert response.is_success
                return time.monotonic() - started

            async with httpx.AsyncClient(base_url=service.url, timeout=120) as client:
                long = asyncio.create_task(one(encode(voice(240.0), 16_000)))
                await asyncio.sleep(0.3)
                return await one(WAV), await long

        short_s, long_s = asyncio.run(both())
        # It waits for the batch that runs and the one it goes with, not for forty.
        assert short_s < long_s / 2
