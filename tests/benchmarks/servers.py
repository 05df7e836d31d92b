"""Small servers for the tests of the load generator: they answer, refuse, drop, or stall when they are told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answering:
    """A running server.

    Attributes:
        trouble: what becomes of every second request: "refuse" or "drop"; "all": each is refused; nothing where None.
        takes_s: how long an answer takes.
        replicas: how many take turns at /metrics, as behind a balancer; each began at another time.
        closes: after an answer the connection is closed, and the answer says nothing of it.
        stall: (request, seconds): from when so many have come nothing is answered for so long.
    """

    port: int = 0
    trouble: str | None = None
    takes_s: float = 0.0
    replicas: int = 1
    read: int = 0
    seen: int = 0
    bodies: list[bytes] = field(default_factory=list)
    closes: bool = False
    stall: tuple[int, float] = (0, 0.0)
    stalled_until: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def answering() -> Iterator[Answering]:
    """A server that keeps connections."""
    told = Answering()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            told.read += self.path == "/metrics"
            started = f"process_start_time_seconds {told.read % told.replicas}\n"
            self._answer(200, started.encode() if self.path == "/metrics" else b"alive")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.bodies.append(body)
            told.seen += 1
            number = told.seen
            if number == told.stall[0]:
                told.stalled_until = time.monotonic() + told.stall[1]
            time.sleep(max(0.0, told.stalled_until - time.monotonic()) + told.takes_s)
            second = number % 2 == 0
            if told.trouble == "drop" and second:
                self.close_connection = True
                return
            refused = told.trouble == "all" or (told.trouble == "refuse" and second)
            self._answer(429 if refused else 200, b"heard")
            self.close_connection |= told.closes

        def _answer(self, status: int, text: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    class Patient(ThreadingHTTPServer):
        request_queue_size = 128  # or the kernel turns away who comes while nobody takes connections up

    server = Patient(("127.0.0.1", 0), Handler)
    told.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
