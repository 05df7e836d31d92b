"""The Python client against a real service, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.client import AsyncClient, Client, ClipLike, Prediction, Retries
from serving.errors import (
    DeadlineExceeded,
    InternalError,
    NoSpeech,
    Overloaded,
    UnexpectedAnswer,
    UnknownVersion,
    Unreachable,
    UnsupportedAudio,
)
from tests.service import Service, free_port
from tests.sounds import encode, voice

SOUND = voice(3.5)
WAV = encode(SOUND, 16_000, subtype="FLOAT")
QUICK = Retries(attempts=3, first_s=0.01)


@pytest.fixture(scope="module")
def timbre(service: Service) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "a voice.wav"
    path.write_bytes(WAV)
    return path


def test_a_path_bytes_and_samples_have_one_answer(timbre: Client, service: Service, clip: Path) -> None:
    told = httpx.post(f"{service.url}/predict", files={"file": ("a voice.wav", WAV)}, timeout=30).json()
    for given in (clip, str(clip), WAV, (SOUND, 16_000)):
        answer = timbre.predict(given)
        mine = json.loads(json.dumps(answer.as_dict()))
        assert mine.keys() - {"variant", "request_id"} == told.keys()
        for key in ("emotion", "confidence", "all_emotions", "model_version", "duration_s", "segments"):
            assert mine[key] == told[key], key
        assert answer.filename == (clip.name if isinstance(given, str | Path) else None)
        assert answer.timing_ms.total > 0
        assert answer.variant == "stable"


def test_options_reach_the_service(timbre: Client, service: Service) -> None:
    assert timbre.predict(WAV, min_confidence=1.0).emotion is None
    assert timbre.predict(WAV, version="1", key="user-17").model_version == "1"
    with pytest.raises(UnknownVersion) as refused:
        timbre.predict(WAV, version="404")
    assert refused.value.details["versions"] == ["1"]
    assert timbre.models()["default"] == "stable"
    told = {"request_id": timbre.predict(WAV).request_id, "emotion": "sad"}
    assert httpx.post(f"{service.url}/feedback", json=told).json()["counted"]


def test_refusals_are_the_errors_of_the_service(timbre: Client, clip: Path) -> None:
    with pytest.raises(NoSpeech, match="silent"):
        timbre.predict((np.zeros(16_000, "float32"), 16_000))
    with pytest.raises(UnsupportedAudio):
        timbre.predict(b"no audio at all, whatever it may be called")
    with pytest.raises(FileNotFoundError):
        timbre.predict(clip.with_name("nowhere.wav"))


def test_the_asynchronous_client_answers_the_same(timbre: Client, service: Service, clip: Path) -> None:
    async def ask() -> Prediction:
        async with AsyncClient(service.url) as client:
            assert (await client.models())["default"] == "stable"
            return await client.predict(clip)

    assert asyncio.run(ask()).all_emotions == timbre.predict(clip).all_emotions


def test_the_client_works_where_a_loop_runs_already(timbre: Client) -> None:
    """As in a notebook."""

    async def cell() -> Prediction:
        return timbre.predict(WAV)

    assert asyncio.run(cell()).model_version == "1"


def test_many_are_answered_in_their_order(timbre: Client, service: Service) -> None:
    lengths = [3.0, 0.5, 2.0, 1.0] * 4
    clips = [encode(voice(seconds), 16_000) for seconds in lengths]
    answers = list(timbre.predict_many(clips, concurrency=4))
    assert [answer.duration_s for answer in answers if isinstance(answer, Prediction)] == lengths

    async def ask() -> list[Prediction | Exception]:
        async with AsyncClient(service.url) as client:
            return [answer async for answer in client.predict_many(clips, concurrency=4, min_confidence=1.0)]

    assert all(isinstance(answer, Prediction) and answer.emotion is None for answer in asyncio.run(ask()))


def test_one_of_many_fails_alone_where_that_is_asked(timbre: Client, tmp_path: Path) -> None:
    clips: list[ClipLike] = [WAV, b"no audio at all, whatever", tmp_path / "nowhere.wav", WAV]
    kinds = [type(answer) for answer in timbre.predict_many(clips, return_exceptions=True)]
    assert kinds == [Prediction, UnsupportedAudio, FileNotFoundError, Prediction]
    with pytest.raises(UnsupportedAudio):
        list(timbre.predict_many(clips))


class Asked:
    """How often, and how many at a time at most."""

    def __init__(self) -> None:
        self._lock, self._running = threading.Lock(), 0
        self.times = self.most = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        with self._lock:
            self.times += 1
            self._running += 1
            self.most = max(self.most, self._running)
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1


@contextmanager
def pretending(*answers: tuple[int, dict[str, str], bytes], answer_s: float = 0.0) -> Iterator[tuple[str, Asked]]:
    """A server that gives one answer after another, the last one for ever; its address and how it was asked."""
    asked, left, done = Asked(), list(answers), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with asked.one():
                done.wait(answer_s)
            status, headers, body = left.pop(0) if len(left) > 1 else left[0]
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        done.set()
        server.shutdown()
        server.server_close()


def told(code: str, **details: Any) -> bytes:
    return json.dumps({"error": {"code": code, "message": "Because.", **details}}).encode()


GOOD: tuple[int, dict[str, str], bytes] = (
    200,
    {},
    json.dumps(
        {
            "emotion": "happy",
            "confidence": 1.0,
            "all_emotions": {"happy": 1.0},
            "filename": None,
            "model_version": "1",
            "duration_s": 1.0,
            "segments": [],
            "timing_ms": {"decode": 0, "queue": 0, "inference": 0, "total": 0},
        }
    ).encode(),
)


@pytest.mark.parametrize(
    "first",
    [
        (429, {"Retry-After": "0"}, told("overloaded", retry_after_s=0.01)),
        (503, {}, told("starting")),
        (503, {}, told("stopping")),
        (502, {}, b"<html>Bad Gateway</html>"),
        (503, {"Retry-After": "0"}, b"no healthy upstream"),
        (0, {}, b""),
    ],
)
def test_what_is_safe_is_tried_again(first: tuple[int, dict[str, str], bytes]) -> None:
    with pretending(first, first, GOOD) as (url, asked), Client(url, retries=QUICK) as client:
        assert client.predict(WAV).emotion == "happy"
        assert asked.times == 3


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((500, {}, told("internal")), InternalError),
        ((504, {}, told("deadline_exceeded")), DeadlineExceeded),
        ((422, {}, told("no_speech")), NoSpeech),
        ((504, {}, b"<html>Gateway Timeout</html>"), UnexpectedAnswer),
        ((200, {}, b"<html>It works!</html>"), UnexpectedAnswer),
        ((200, {}, b"{}"), UnexpectedAnswer),
        ((404, {}, told("of_tomorrow")), UnexpectedAnswer),
    ],
)
def test_what_is_not_safe_is_told_at_once(answer: tuple[int, dict[str, str], bytes], error: type[Exception]) -> None:
    with pretending(answer, GOOD) as (url, asked), Client(url, retries=QUICK) as client:
        with pytest.raises(error):
            client.predict(WAV)
        assert asked.times == 1


def test_tries_end_and_the_last_refusal_is_told() -> None:
    with pretending((429, {}, told("overloaded"))) as (url, asked), Client(url, retries=QUICK) as client:
        with pytest.raises(Overloaded):
            client.predict(WAV)
        assert asked.times == 3


def test_nobody_there_and_nobody_in_time() -> None:
    with (
        Client(f"http://127.0.0.1:{free_port()}", retries=QUICK) as client,
        pytest.raises(Unreachable, match="cannot be reached"),
    ):
        client.predict(WAV)
    with pretending(GOOD, answer_s=60) as (url, asked), Client(url, retries=QUICK, timeout_s=0.5) as client:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s"):
            client.predict(WAV)
        assert asked.times == 1


def test_no_more_are_asked_at_a_time_than_allowed() -> None:
    with pretending(GOOD, answer_s=0.1) as (url, asked), Client(url) as client:
        assert len(list(client.predict_many([WAV] * 12, concurrency=3))) == 12
        assert asked.times == 12
        assert asked.most == 3
