"""Replicas come and go behind a real HAProxy under a steady load, and no request fails."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.haproxy import HAProxy
from tests.service import Service, environment, free_port, running, start_process, until, wait_until_ready
from tests.sounds import encode, voice
from tests.steady import Steady

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy, which is not on this machine")

WAV = encode(voice(1.0), 16_000)
ROUNDS = 10
NAMES = ("one", "two")
PROXY = """
defaults
    mode http
    timeout connect 30s
    timeout client 60s
    timeout server 60s
    timeout check 30s
    # No retry hides a fault, and connections to replicas are kept as a gateway keeps them.
    retries 0
    http-reuse always
frontend front
    bind 127.0.0.1:{front}
    default_backend replicas
backend replicas
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 200ms fall 1 rise 1
    server one 127.0.0.1:{one}
    server two 127.0.0.1:{two}
"""


@contextmanager
def load(url: str) -> Iterator[Steady]:
    """A few clients, each over a connection that it keeps, as a gateway's do."""

    def ask(client: httpx.Client) -> None:
        client.post("/predict", content=WAV, headers={"Content-Type": "audio/wav"}).raise_for_status()

    with ExitStack() as connections:
        clients = [connections.enter_context(httpx.Client(base_url=url, timeout=60)) for _ in range(4)]
        with Steady([partial(ask, client) for client in clients]) as asking:
            yield asking


def test_ten_replicas_stop_and_not_one_request_fails(tmp_path: Path) -> None:
    """The balancer asks five times a second, and has three to hear of it, in which this machine may stand still."""
    ports = [free_port(), free_port()]

    def start(index: int, turn: int) -> Service:
        log = tmp_path / f"replica-{index}-{turn}.txt"
        service = start_process(log, environment(port=ports[index], drain_s=3))
        wait_until_ready(service)
        return service

    replicas = [start(0, 0), start(1, 0)]
    front = free_port()
    proxy = HAProxy(tmp_path, PROXY.format(front=front, one=ports[0], two=ports[1]))
    try:
        with load(f"http://127.0.0.1:{front}") as asking:
            for turn in range(1, ROUNDS + 1):
                index = turn % 2
                time.sleep(0.2)
                assert replicas[index].stop() == 0
                assert "Traceback" not in replicas[index].log.read_text()
                replicas[index] = start(index, turn)
                assert until(partial(proxy.sends_to, NAMES[index]))
    finally:
        proxy.close()
        for replica in replicas:
            replica.process.send_signal(signal.SIGINT)  # which waits for no balancer
        for replica in replicas:
            replica.process.wait(60)
    assert asking.failed == []
    assert asking.answered.total() > 100


def test_while_it_drains_it_is_not_ready_and_answers(tmp_path: Path) -> None:
    """For a minute, which a second signal ends; that it ends by itself, the replicas above show."""
    with running(tmp_path / "log.txt", drain_s=60) as service, httpx.Client(base_url=service.url) as client:
        assert "connection" not in client.get("/health").headers
        service.process.terminate()
        assert until(lambda: not httpx.get(f"{service.url}/readyz").is_success)
        ready = httpx.get(f"{service.url}/readyz")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "stopping")
        assert httpx.get(f"{service.url}/livez").is_success
        # The server takes new headers over once a second.
        assert until(lambda: httpx.get(f"{service.url}/livez").headers.get("connection") == "close")
        answer = client.post("/predict", content=WAV, headers={"Content-Type": "audio/wav"})
        assert answer.is_success
        assert answer.headers["connection"] == "close"
        assert service.process.poll() is None
        service.process.terminate()
        assert service.process.wait(60) == 0
        with pytest.raises(OSError, match="refused"):
            service.connect()


def test_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", drain_s=60) as service:
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(30) == 0  # half as long as after SIGTERM
