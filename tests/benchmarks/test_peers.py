"""Each peer answers the same question as the service, and is measured in turn with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest

from benchmarks.bench import Bench
from benchmarks.clips import clips
from benchmarks.load import OK
from benchmarks.loops import closed_loop
from benchmarks.parts import peers as module
from benchmarks.peers import PEERS, WHY_BETTER, WHY_FAILED, Peer, environments, timbre
from benchmarks.process import Server, clean_environment, free_port, serving
from benchmarks.sounds import wav
from benchmarks.tables import MEASURES, failed
from benchmarks.target import NotHereError
from benchmarks.transports import Http, multipart
from tests.benchmarks.servers import answering
from tests.service import until

CLIP = wav(4.2, 48_000)
OURS = [name for name in PEERS if name not in ("timbre", "classic")]


def ask(peer: Peer, url: str) -> dict[str, Any]:
    """What it says of CLIP, asked with the very bytes that the load generator sends."""
    way = peer.ask(url, [CLIP])
    assert isinstance(way, Http)
    head, _, body = way.requests[0].partition(b"\r\n\r\n")
    path = head.split(b" ")[1].decode()
    kind = head.split(b"Content-Type: ")[1].split(b"\r\n")[0].decode()
    answers: list[httpx.Response] = []

    def answered() -> bool:
        answers.append(httpx.post(f"{url}{path}", content=body, headers={"Content-Type": kind}, timeout=300))
        return answers[-1].is_success

    # BentoML's gateway says that it is ready before the service behind it is.
    assert until(answered, 60), answers[-1].text
    told: dict[str, Any] = answers[-1].json()
    if "outputs" not in told:
        return told
    values = {output["name"]: output["data"][0] for output in told["outputs"]}  # as MLServer tells it
    return {**values, "all_emotions": json.loads(values["all_emotions"])}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    with timbre() as server:
        return ask(PEERS["timbre"], server.url)


def installed(name: str) -> pytest.MarkDecorator:
    """Asked before anything is started for it."""
    reason = PEERS[name].why_missing()
    return pytest.mark.skipif(bool(reason), reason=f"{name} is not installed: {reason}")


@pytest.mark.parametrize("name", [pytest.param(name, marks=installed(name)) for name in OURS])
def test_a_peer_with_our_file_hears_what_we_hear(name: str, expected: dict[str, Any]) -> None:
    with PEERS[name].start() as server:
        told = ask(PEERS[name], server.url)
        assert server.resident_mb() > 50
    assert told["emotion"] == expected["emotion"]
    assert told["confidence"] == pytest.approx(expected["confidence"], abs=1e-3)
    assert told["all_emotions"] == pytest.approx(expected["all_emotions"], abs=1e-3)


@installed("classic")
def test_the_classic_design_answers_with_the_same_emotions(expected: dict[str, Any]) -> None:
    with PEERS["classic"].start() as server:
        told = ask(PEERS["classic"], server.url)
    assert told["all_emotions"].keys() == expected["all_emotions"].keys()
    assert sum(told["all_emotions"].values()) == pytest.approx(1, abs=1e-5)


def test_every_peer_has_an_environment_of_its_own_with_pinned_requirements() -> None:
    assert set(environments.names()) == PEERS.keys() - {"timbre"}
    for name in environments.names():
        wanted = (environments.HERE / name / "requirements.in").read_text().splitlines()
        assert all("==" in line and "  # " in line for line in wanted), name
        locked = (environments.HERE / name / "requirements.txt").read_text().splitlines()
        for line in wanted:
            pin = line.split(" ")[0]
            assert pin.startswith("torch==") or any(other.startswith(pin) for other in locked), (name, pin)


def test_why_a_peer_is_better_is_said_of_peers_and_measures_that_there_are() -> None:
    assert {name for name, _ in WHY_BETTER} <= PEERS.keys()
    assert {measure for _, measure in WHY_BETTER} <= MEASURES.keys()


PROGRAM = """
import http.server, sys

fails = len(sys.argv) > 2

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, asked = "HTTP/1.1", 0

    def do_GET(self):
        self.tell(200, b"ready")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        Handler.asked += 1
        if Handler.asked % 3 or not fails:
            return self.tell(200, b"heard")
        print("Traceback\\n  File \\"/home/of/somebody/site-packages/rooms.py\\"\\nrooms.FullError: nowhere to sit")
        sys.stdout.flush()
        self.tell(500, b"please see the log")

    def tell(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""A server that hears nothing, and with one argument more fails every third request and prints why."""


@contextmanager
def small(*arguments: str) -> Iterator[Server]:
    """One that is there at once."""
    port = free_port()
    with serving([sys.executable, "-c", PROGRAM, str(port), *arguments], port, clean_environment()) as server:
        yield server


def broken() -> Any:
    raise RuntimeError("no module named torch")


def test_peers_are_measured_in_turn_and_one_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = Peer("one", small, multipart), Peer("the same again", small, multipart)
    gone = Peer("nowhere", timbre, multipart, why_missing=lambda: "run something first")
    mine = {"timbre": first, "again": again, "broken": Peer("fails", broken, multipart), "gone": gone}
    monkeypatch.setattr(module, "PEERS", mine)
    said: list[str] = []
    found = module.measure(Bench(scale=0.15, rounds=1, sent=clips()[:2], say=said.append))
    assert [line.split(": ")[0].split(", ")[1] for line in said if line.startswith("round")] == [
        "timbre",
        "again",
        "broken",
    ]
    assert found["missing"] == {"gone": "run something first"}
    assert found["summary"]["broken"] == {"failed": "no module named torch"}
    for name in ("timbre", "again"):
        (once,) = found["rounds"][name]
        assert [once[kind]["errors"] for kind in (*module.CLIENTS, "open")] == [0] * 4
        assert [once[kind]["clients"] for kind in module.CLIENTS] == [1, 8, 32]
        assert once["open"]["rate"] == module.RATE
        assert once["server_cpu_ms"] > 0
        assert once["ready_s"] > 0
    low, high = found["summary"]["again"]["ratios"]["memory"][1:]
    assert 0.5 < low <= high < 2


def ended() -> subprocess.Popen[bytes]:
    """A process, which stands for a server's."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process


@pytest.mark.timed
def test_the_settings_that_are_best_for_a_peer_are_found_out() -> None:
    """Two servers, one of which takes its time; the other's settings are those the peer is measured with."""
    started: list[dict[str, str]] = []

    @contextmanager
    def start(**settings: str) -> Iterator[Server]:
        started.append(settings)
        with answering() as server:
            server.takes_s = 0.3 if settings["SLOW"] else 0.0  # 27 requests/s of eight clients at most
            yield Server(ended(), server.port, 1.0)

    peer = Peer("slow or not", start, multipart, choices={"slow": {"SLOW": "1"}, "quick": {"SLOW": ""}})
    told = module.chosen_settings(Bench(scale=0.1, rounds=2, sent=clips()[:1], say=lambda _: None), peer)
    assert told["taken"] == "quick"
    for kind in ("alone", "closed"):
        assert told["per_second"]["slow"][kind] < told["per_second"]["quick"][kind]
    assert started == [{"SLOW": "1"}, {"SLOW": ""}]
    assert module.chosen_settings(Bench(), Peer("fails", broken, multipart, choices={"any": {}})) == {}


def test_why_requests_fail_is_kept_and_told() -> None:
    """A server that fails a third of what it is asked, and prints why: what it said and what it printed are there."""
    once = module._once(Bench(scale=0.1), Peer("fails", partial(small, "fails"), multipart), 0, "")
    assert once["closed"]["said"] == {"http_500": "please see the log"}
    assert once["log"].endswith('  File "site-packages/rooms.py"\nrooms.FullError: nowhere to sit\n')
    line = module.summary({"fails": [once]})["fails"]
    assert line["failures"]["http_500"] == {
        "requests": line["errors"],
        "said": "please see the log",
        "logged": "rooms.FullError: nowhere to sit",
    }
    (told,) = failed({"fails": line})
    assert told == (
        f"{line['errors']} of fails's requests ended as http_500, it said `please see the log`, "
        "its log `rooms.FullError: nowhere to sit`."
    )


@installed("bentoml_plain")
def test_plain_bentoml_fails_for_the_reason_that_is_told() -> None:
    """With a session that is not changed after 100 calls the same program, under the same load, fails nothing."""
    peer = PEERS["bentoml_plain"]
    kept = {"BENTOML_CONFIG_OPTIONS": "services.Model.runner_connection.max_requests=1000000"}
    loads = {}
    for name, settings in (("as documented", {}), ("kept", kept)):
        with peer.start(**settings) as server:
            way = peer.ask(server.url, [wav(module.SECONDS, module.RATE_HZ)])
            module.answering(way, server)
            loads[name] = closed_loop(way, module.CLIENTS["crowd"], 4.0)
            printed = server.printed()
        assert loads[name].all_requests > 101, "too slow a machine to see the session change"
        assert ("aiohttp" in module.last_error(printed)) == (name == "as documented")
    assert set(loads["as documented"].said) == {"http_500"}
    assert loads["kept"].outcomes.keys() == {OK}
    assert ("bentoml_plain", "http_500") in WHY_FAILED


def test_a_server_that_answers_no_request_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_S", 0.3)
    with answering() as server:
        running = Server(ended(), server.port, ready_s=5.0)
        assert 5.0 <= module.answering(multipart(server.url, [CLIP]), running) < 15
        server.trouble = "all"
        with pytest.raises(RuntimeError, match="answers no request well"):
            module.answering(multipart(server.url, [CLIP]), running)


def test_a_service_elsewhere_has_no_peers() -> None:
    with pytest.raises(NotHereError, match="other cores"):
        module.measure(Bench(url="http://somewhere"))


def test_an_environment_that_does_not_install_says_why(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "venvs")
    monkeypatch.setattr(environments, "HERE", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "odd").mkdir()
    for kind in ("in", "txt"):
        (tmp_path / "odd" / f"requirements.{kind}").write_text("there-is-no-such-package==1\n")
    assert environments.why_missing("odd") == "run `make benchmark-peers` first"
    assert "there-is-no-such-package" in environments.install("odd")
    assert environments.why_missing("odd").startswith("it did not install")
    (tmp_path / "odd" / "requirements.txt").write_text("\n")
    assert environments.install("odd") == ""
    assert environments.why_missing("odd") == ""
    (tmp_path / "odd" / "requirements.txt").write_text("# other\n")
    assert "have changed" in environments.why_missing("odd")
