"""Refusals from the head alone: what a client that is refused sees on its connection, over bare sockets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from serving.transports.asgi import LINGER_S
from tests.models import copy_versions, costly
from tests.service import Service, metric, running, until
from tests.sounds import encode, voice

WAV = encode(voice(2.0), 16_000)
LONG = encode(voice(120.0), 16_000)
KEY = "timbre_a-key-that-only-this-test-knows"
INFER = "/v2/models/timbre/infer"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a key, whose one permit somebody has for as long as the tests take."""
    folder = tmp_path_factory.mktemp("full")
    models = copy_versions(folder, "2", change=costly(20))
    keys = folder / "keys.yaml"
    keys.write_text(f"keys: {{app: {{sha256: {hashlib.sha256(KEY.encode()).hexdigest()}}}}}\n")
    with (
        running(
            folder / "log.txt",
            models=models,
            max_inflight=1,
            max_batch=1,
            timeout_s=600,
            api_keys_file=keys,
            api_keys_exempt="health,metrics",
        ) as service,
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=service.url, headers={"X-API-Key": KEY}, timeout=600) as client,
    ):
        holding = True

        def hold() -> None:
            while holding:
                with contextlib.suppress(httpx.ReadTimeout):
                    client.post("/predict", content=LONG, headers={"Content-Type": "audio/wav"}, timeout=60)

        holder = pool.submit(hold)
        assert until(lambda: metric(client, "timbre_inflight") == 1)
        yield service
        holding = False
        service.process.kill()  # it would finish what it has begun
        service.process.wait()
        with contextlib.suppress(httpx.TransportError):
            holder.result()


def head(path: str = "/predict", length: int | None = None, *extra: str, key: str = KEY) -> bytes:
    size = [] if length is None else [f"Content-Length: {length}"]
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"X-API-Key: {key}", *size, *extra]
    return "\r\n".join([*lines, "\r\n"]).encode()


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer on a connection."""
    with connection.makefile("rb", buffering=0) as stream:
        lines = [stream.readline().decode().strip()]
        while lines[-1]:
            lines.append(stream.readline().decode().strip())
        headers = dict(line.lower().split(": ", 1) for line in lines[1:-1])
        body = b""
        while len(body) < int(headers["content-length"]):
            body += stream.read(int(headers["content-length"]) - len(body))
    return int(lines[0].split()[1]), headers, body


def is_closed(connection: socket.socket) -> bool:
    """Whether nothing more can come."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_the_head_is_answered_and_the_connection_serves_on(full: Service) -> None:
    with full.connect() as connection:
        for _ in range(3):
            connection.sendall(head(length=len(WAV)))
            status, headers, body = answer(connection)  # before anything of the body was sent
            assert (status, headers["retry-after"]) == (429, "1")
            assert json.loads(body)["error"]["reason"] == "permits"
            assert headers["x-content-type-options"] == "nosniff"
            assert "date" in headers
            assert "connection" not in headers
            connection.sendall(WAV)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
        assert answer(connection)[0] == 200


def spent_ns(service: Service) -> int:
    """Processor time of the thread that the event loop runs in, which computes no windows."""
    pid = service.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])


def test_a_refusal_costs_the_service_less_than_the_shortest_way_through_the_application(full: Service) -> None:
    """In processor time, which other work on the machine does not stretch as it does waiting."""
    refused, nowhere = (head(path, len(WAV)) + WAV for path in ("/predict", "/nowhere"))
    spent = {refused: 0, nowhere: 0}
    with full.connect() as connection:
        for _ in range(10):
            for request, status in ((refused, 429), (nowhere, 404)):
                began = spent_ns(full)
                for _ in range(50):
                    connection.sendall(request)
                    assert answer(connection)[0] == status
                spent[request] += spent_ns(full) - began
    assert 0 < spent[refused] < spent[nowhere], [ns / 500e3 for ns in spent.values()]


def test_refusals_that_came_together_are_answered_in_their_order(full: Service) -> None:
    with full.connect() as connection:
        live = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"
        one = head(length=len(WAV)) + WAV
        connection.sendall(one + live + one + one + live)
        assert [answer(connection)[0] for _ in range(5)] == [429, 200, 429, 429, 200]


@pytest.mark.parametrize(
    "sent",
    [
        head(length=2 << 20),  # is not worth taking
        head("/predict", None, "Transfer-Encoding: chunked"),
        head("/predict", 8, "Expect: 100-continue"),  # who waits to be asked for the body may not send it now
        head("/predict", 0, "Connection: close"),
    ],
    ids=["long", "chunked", "expecting", "closing"],
)
def test_where_the_rest_is_not_worth_taking_the_connection_is_closed(full: Service, sent: bytes) -> None:
    with full.connect() as connection:
        connection.sendall(sent)
        status, headers, _ = answer(connection)
        assert (status, headers["connection"]) == (429, "close")
        assert is_closed(connection)  # soon, and not when the connection would have timed out


def test_a_body_that_is_announced_and_does_not_come_holds_nobody(full: Service) -> None:
    with full.connect() as connection:
        connection.sendall(head(length=len(WAV)))
        assert answer(connection)[0] == 429
        assert is_closed(connection)


def test_nor_one_behind_another_refusal(full: Service) -> None:
    with full.connect() as connection:
        connection.sendall(head(length=0) + head(length=len(WAV)))
        began = time.monotonic()
        assert [answer(connection)[0] for _ in range(2)] == [429, 429]
        assert is_closed(connection)
        assert time.monotonic() - began < 5 * LINGER_S


def test_who_is_refused_and_never_reads_fills_no_memory(full: Service) -> None:
    before = full.peak_bytes()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(full.address)
        sent = 0
        with contextlib.suppress(ConnectionError):
            for _ in range(100_000):
                connection.sendall(head(length=0))
                sent += 1
    assert 0 < sent < 100_000
    assert full.peak_bytes() - before < 32 << 20


def test_a_websocket_behind_a_refusal_is_none(full: Service) -> None:
    """It would be closed as the connection of the refusal, in the middle of what is said."""
    lines = ["GET /v1/listen HTTP/1.1", "Host: t", "Connection: Upgrade", "Upgrade: websocket", "\r\n"]
    with full.connect() as connection:
        connection.sendall(head(length=0) + "\r\n".join(lines).encode())
        assert answer(connection)[0] == 429
        assert is_closed(connection)


def test_the_key_comes_before_the_room(full: Service) -> None:
    with httpx.Client(base_url=full.url) as client:
        before = metric(client, "timbre_rejects_total", reason="permits")
        nobody = client.post("/predict", content=WAV, headers={"Content-Type": "audio/wav"})
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "unauthenticated")
        assert nobody.headers.get_list("www-authenticate")
        assert client.post(INFER, json={}).json()["error"].startswith("unauthenticated: ")
        assert metric(client, "timbre_rejects_total", reason="permits") == before


def test_each_transport_refuses_in_its_form_and_is_counted(full: Service) -> None:
    with httpx.Client(base_url=full.url, headers={"X-API-Key": KEY}) as client:

        def counted() -> list[float]:
            names = ({"transport": name, "code": "overloaded"} for name in ("http", "oip-http"))
            requests = [metric(client, "timbre_requests_total", **labels) for labels in names]
            keys = metric(client, "timbre_key_requests_total", key="app", result="ok")
            return [*requests, metric(client, "timbre_rejects_total", reason="permits"), keys]

        before = counted()
        for path in (INFER, "/v2/models/timbre/versions/2/infer"):
            refused = client.post(path, json={"inputs": []})
            assert refused.status_code == 429
            assert refused.json()["error"].startswith("overloaded: ")
        # What a browser asks goes the long way, where other sites' pages are known, and hears the same.
        for headers in ({}, {"Origin": full.url}):
            assert client.post("/predict", files={"file": WAV}, headers=headers).json()["error"]["code"] == "overloaded"
        assert [after - was for was, after in zip(before, counted(), strict=True)] == [2, 2, 4, 4]
