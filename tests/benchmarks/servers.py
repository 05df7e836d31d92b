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
        trouble: what becomes of every fifth request: "refuse" or "drop"; "all": each is refused; nothing where None.
        takes_s: how long an answer takes.
        replicas: how many take turns at /metrics, as behind a balancer; each began at another time.
        idle_s: after so long an idle connection is closed.
        stalls: (start, end) by ``time.monotonic``: meanwhile nothing is answered.
    """

    port: int = 0
    trouble: str | None = None
    takes_s: float = 0.0
    replicas: int = 1
    read: int = 0
    seen: int = 0
    bodies: list[bytes] = field(default_factory=list)
    idle_s: float = 60.0
    stalls: tuple[float, float] = (0.0, 0.0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def answering() -> Iterator[Answering]:
    """A server that keeps connections."""
    told = Answering()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.connection.settimeout(told.idle_s)

        def do_GET(self) -> None:
            told.read += self.path == "/metrics"
            started = f"process_start_time_seconds {told.read % told.replicas}\n"
            self._answer(200, started.encode() if self.path == "/metrics" else b"alive")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.bodies.append(body)
            told.seen += 1
            start, end = told.stalls
            if start <= (now := time.monotonic()) < end:
                time.sleep(end - now)
            time.sleep(told.takes_s)
            fifth = told.seen % 5 == 0
            if told.trouble == "drop" and fifth:
                self.close_connection = True
                return
            refused = told.trouble == "all" or (told.trouble == "refuse" and fifth)
            self._answer(429 if refused else 200, b"heard")

        def _answer(self, status: int, text: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
