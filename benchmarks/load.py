"""A closed loop of HTTP clients in one event loop: each sends its next request when its last is answered.

Written on bare sockets because the load generator shares the cores with what it measures: a request costs it some 60
microseconds, a tenth of what an HTTP client library takes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_BOUNDARY = "timbre-benchmark"
_OK, _NO_ROOM = 200, 429


@dataclass
class Load:
    """What a closed loop saw.

    Attributes:
        clients: connections, each with one request under way.
        seconds: measured, after the warm-up.
        latencies_s: of each request that was answered with 200.
        refused_s: of each that was refused for lack of room, with 429.
        statuses: how many answers had which HTTP status; 0 is a connection that broke.
        all_requests: answered, the warm-up's too.
        own_cpu_s: processor time that the load generator itself took.
    """

    clients: int
    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    all_requests: int = 0
    own_cpu_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Requests per second, latencies in ms, errors, and the generator's share of one core.

        Raises:
            RuntimeError: no request was answered.
        """
        if not self.latencies_s:
            raise RuntimeError(f"None of {sum(self.statuses.values())} requests was answered: {dict(self.statuses)}.")
        p50, p90, p99 = (round(float(p) * 1e3, 2) for p in np.percentile(self.latencies_s, [50, 90, 99]))
        good = sum(count for status, count in self.statuses.items() if status == _OK)
        return {
            "clients": self.clients,
            "requests": sum(self.statuses.values()),
            "errors": sum(self.statuses.values()) - good,
            "per_second": round(good / self.seconds, 1),
            "p50_ms": p50,
            "p90_ms": p90,
            "p99_ms": p99,
            "generator_core_share": round(self.own_cpu_s / self.seconds, 3),
        }


def multipart_request(clip: bytes, host: str, path: str = "/predict") -> bytes:
    """One upload as curl sends it, head and body."""
    body = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="clip.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    ).encode()
    body += clip + f"\r\n--{_BOUNDARY}--\r\n".encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary={_BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def closed_loop(
    host: str, port: int, request: bytes, clients: int, seconds: float, warm_s: float = 1.0, pause_s: float = 0.0
) -> Load:
    """Keep so many clients busy for so long.

    Args:
        warm_s: before measuring begins.
        pause_s: before a client that was refused for lack of room comes again.
    """
    return asyncio.run(_closed_loop(_Target(host, port, request, pause_s), clients, seconds, warm_s))


@dataclass(frozen=True)
class _Target:
    """Whom clients ask for what."""

    host: str
    port: int
    request: bytes
    pause_s: float


async def _closed_loop(target: _Target, clients: int, seconds: float, warm_s: float) -> Load:
    load = Load(clients, seconds)
    begin = time.perf_counter() + warm_s
    tasks = [asyncio.create_task(_client(target, load, begin, begin + seconds)) for _ in range(clients)]
    await asyncio.sleep(warm_s)
    cpu = time.process_time()
    await asyncio.gather(*tasks)
    load.own_cpu_s = time.process_time() - cpu
    return load


async def _client(target: _Target, load: Load, begin: float, end: float) -> None:
    """One connection, opened again when it breaks or the server closes it."""
    while time.perf_counter() < end:
        try:
            reader, writer = await asyncio.open_connection(target.host, target.port)
            try:
                closes = False
                while not closes and (sent := time.perf_counter()) < end:
                    writer.write(target.request)
                    status, closes = await _answer(reader)
                    done = time.perf_counter()
                    load.all_requests += 1
                    if sent >= begin and done <= end:
                        load.statuses[status] += 1
                        if status in (_OK, _NO_ROOM):
                            (load.latencies_s if status == _OK else load.refused_s).append(done - sent)
                    if status == _NO_ROOM:
                        await asyncio.sleep(target.pause_s)
            finally:
                writer.close()
        except (OSError, asyncio.IncompleteReadError):
            load.statuses[0] += 1
            await asyncio.sleep(0.05)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read one answer; returns its status, and whether the connection is closed after it."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
    await reader.readexactly(int(length))
    return int(head.split(b" ", 2)[1]), b"connection: close" in head
