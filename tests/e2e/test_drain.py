"""Replicas come and go behind a real HAProxy under a steady load, and no request fails."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.service import Service, environment, free_port, running, start_process, wait_until_ready
from tests.sounds import encode, voice

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy, which is not on this machine")

WAV = encode(voice(1.0), 16_000)
ROUNDS = 10
PROXY = """
global
    maxconn 2000
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
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
def proxy(folder: Path, one: int, two: int) -> Iterator[str]:
    front = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(PROXY.format(front=front, one=one, two=two))
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(["haproxy", "-f", str(config), "-db"], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{front}"
        end = time.monotonic() + 20
        while True:
            try:
                if httpx.get(f"{url}/health").is_success:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < end
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


class Load:
    """A few clients that never stop."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.url, self.answered = url, 0
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _client(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self._stop.is_set():
                try:
                    response = client.post("/predict", content=WAV, headers={"Content-Type": "audio/wav"})
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                    continue
                time.sleep(0.02)  # steady, not as fast as it goes: replicas start on the same cores
                if response.is_success:
                    self.answered += 1
                else:
                    self.failed.append(f"{response.status_code} {response.text}")


@pytest.mark.alone
def test_ten_replicas_stop_and_not_one_request_fails(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]

    def start(index: int, turn: int) -> Service:
        log = tmp_path / f"replica-{index}-{turn}.txt"
        service = start_process(log, environment(port=ports[index], drain_s=1))
        wait_until_ready(service)
        return service

    replicas = [start(0, 0), start(1, 0)]
    try:
        with proxy(tmp_path, *ports) as url, Load(url) as load:
            for turn in range(1, ROUNDS + 1):
                index = turn % 2
                time.sleep(0.2)
                assert replicas[index].stop() == 0
                assert "Traceback" not in replicas[index].log.read_text()
                replicas[index] = start(index, turn)
                time.sleep(0.4)  # until the proxy has seen it
    finally:
        for replica in replicas:
            replica.process.terminate()
            replica.process.wait(30)
    assert load.failed == []
    assert load.answered > 100


def test_while_it_drains_it_is_not_ready_and_answers(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", drain_s=2) as service, httpx.Client(base_url=service.url) as client:
        assert "connection" not in client.get("/health").headers
        service.process.terminate()
        end = time.monotonic() + 10
        while (ready := httpx.get(f"{service.url}/readyz")).is_success:
            assert time.monotonic() < end
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "stopping")
        assert httpx.get(f"{service.url}/livez").is_success
        time.sleep(1.1)  # the server takes new headers over once a second
        answer = client.post("/predict", content=WAV, headers={"Content-Type": "audio/wav"})
        assert answer.is_success
        assert answer.headers["connection"] == "close"
        assert service.process.wait(20) == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", int(service.url.rsplit(":", 1)[1])), timeout=2)


def test_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", drain_s=60) as service:
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(20) == 0
