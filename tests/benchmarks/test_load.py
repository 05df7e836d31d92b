from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.load import Load, closed_loop, multipart_request
from benchmarks.sounds import wav


class Answers(BaseHTTPRequestHandler):
    """A server that keeps connections, and refuses or drops every fifth request when told to."""

    protocol_version = "HTTP/1.1"
    seen = 0
    trouble: str | None = None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Answers.seen += 1
        if Answers.trouble == "drop" and Answers.seen % 5 == 0:
            self.close_connection = True
            return
        self.send_response(429 if Answers.trouble == "refuse" and Answers.seen % 5 == 0 else 200)
        text = str(body.count(b"RIFF")).encode()
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Answers.seen, Answers.trouble = 0, None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def load(port: int) -> Load:
    return closed_loop("127.0.0.1", port, multipart_request(wav(0.2), "here"), clients=3, seconds=0.5, warm_s=0.1)


def test_every_answer_is_counted_once(port: int) -> None:
    found = load(port)
    told = found.to_json()
    assert told["errors"] == 0
    assert 0 < told["requests"] <= found.all_requests == Answers.seen
    assert len(found.latencies_s) == told["requests"]
    assert told["per_second"] == pytest.approx(told["requests"] / 0.5, abs=0.1)
    assert 0 < told["p50_ms"] <= told["p90_ms"] <= told["p99_ms"]
    assert told["generator_core_share"] > 0


@pytest.mark.parametrize(("trouble", "status"), [("refuse", 429), ("drop", 0)])
def test_what_is_no_answer_is_an_error(port: int, trouble: str, status: int) -> None:
    Answers.trouble = trouble
    found = load(port)
    assert found.statuses[status] > 0
    told = found.to_json()
    assert told["errors"] == found.statuses[status]
    assert told["per_second"] == pytest.approx(found.statuses[200] / 0.5, abs=0.1)


def test_a_load_that_nobody_answered_says_so() -> None:
    with pytest.raises(RuntimeError, match="None of 0 requests"):
        Load(1, 1.0).to_json()
