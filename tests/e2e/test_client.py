"""The Python client against a real service, over HTTP and gRPC, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.client import (
    AsyncClient,
    Client,
    ClipLike,
    Measurement,
    Message,
    Prediction,
    Retries,
    Session,
    UtteranceEnd,
    UtteranceStart,
)
from serving.errors import (
    DeadlineExceeded,
    InternalError,
    NoSpeech,
    Overloaded,
    RequestError,
    UnexpectedAnswer,
    UnknownVersion,
    Unreachable,
    UnsupportedAudio,
)
from tests.conftest import ROOT, SERVED
from tests.service import Service, environment, free_port
from tests.sounds import encode, voice
from tests.transports import Clip

SOUND = voice(3.5)
WAV = encode(SOUND, 16_000, subtype="FLOAT")
QUICK = Retries(attempts=3, first_s=0.01)


@pytest.fixture(scope="module", params=["http", "grpc"])
def url(request: pytest.FixtureRequest, service: Service) -> str:
    """The service's address, either way."""
    return service.url if request.param == "http" else f"grpc://{service.grpc}"


@pytest.fixture(scope="module")
def timbre(url: str) -> Iterator[Client]:
    with Client(url) as client:
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
        for key in ("emotion", "confidence", "model_version", "duration_s"):
            assert mine[key] == told[key], key
        assert mine["all_emotions"] == pytest.approx(told["all_emotions"], abs=1e-5)
        for segment, other in zip(mine["segments"], told["segments"], strict=True):
            assert segment.pop("all_emotions") == pytest.approx(other["all_emotions"], abs=1e-5)
            assert segment == pytest.approx({key: other[key] for key in segment}, abs=1e-5)
        assert answer.filename == (clip.name if isinstance(given, str | Path) else None)
        assert answer.timing_ms.total > 0
        assert answer.variant == "stable"


def test_options_reach_the_service(timbre: Client, service: Service) -> None:
    assert timbre.predict(WAV, min_confidence=1.0).emotion is None
    assert timbre.predict(WAV, version=SERVED, key="user-17").model_version == SERVED
    with pytest.raises(UnknownVersion) as refused:
        timbre.predict(WAV, version="404")
    assert SERVED in refused.value.details["versions"]
    told = {"request_id": timbre.predict(WAV).request_id, "emotion": "sad"}
    assert httpx.post(f"{service.url}/feedback", json=told).json()["counted"]


def test_refusals_are_the_errors_of_the_service(timbre: Client, clip: Path) -> None:
    with pytest.raises(NoSpeech, match="silent"):
        timbre.predict((np.zeros(16_000, "float32"), 16_000))
    with pytest.raises(UnsupportedAudio):
        timbre.predict(b"no audio at all, whatever it may be called")
    with pytest.raises(FileNotFoundError):
        timbre.predict(clip.with_name("nowhere.wav"))


def test_what_is_loaded_is_told(timbre: Client, service: Service) -> None:
    told = timbre.models()
    assert told["default"] == "stable"
    assert told == httpx.get(f"{service.url}/models").json()
    assert isinstance(told["models"][0]["metadata"]["parameters"], int)


def test_the_asynchronous_client_answers_the_same(timbre: Client, url: str, clip: Path) -> None:
    async def ask() -> Prediction:
        async with AsyncClient(url) as client:
            return await client.predict(clip)

    assert asyncio.run(ask()).all_emotions == timbre.predict(clip).all_emotions


def test_the_client_works_where_a_loop_runs_already(timbre: Client) -> None:
    """As in a notebook."""

    async def cell() -> Prediction:
        return timbre.predict(WAV)

    assert asyncio.run(cell()).model_version == SERVED


def test_many_are_answered_in_their_order(timbre: Client, url: str) -> None:
    lengths = [3.0, 0.5, 2.0, 1.0] * 4
    clips = [encode(voice(seconds), 16_000) for seconds in lengths]
    answers = list(timbre.predict_many(clips, concurrency=4))
    assert [answer.duration_s for answer in answers if isinstance(answer, Prediction)] == lengths

    async def ask() -> list[Prediction | Exception]:
        async with AsyncClient(url) as client:
            return [answer async for answer in client.predict_many(clips, concurrency=4, min_confidence=1.0)]

    assert all(isinstance(answer, Prediction) and answer.emotion is None for answer in asyncio.run(ask()))


def test_one_of_many_fails_alone_where_that_is_asked(timbre: Client, tmp_path: Path) -> None:
    clips: list[ClipLike] = [WAV, b"no audio at all, whatever", tmp_path / "nowhere.wav", WAV]
    kinds = [type(answer) for answer in timbre.predict_many(clips, return_exceptions=True)]
    assert kinds == [Prediction, UnsupportedAudio, FileNotFoundError, Prediction]
    with pytest.raises(UnsupportedAudio):
        list(timbre.predict_many(clips))


def frames_of(pcm: bytes, rate_hz: int) -> list[bytes]:
    """A tenth of a second each."""
    size = 2 * (rate_hz // 10)
    return [pcm[start : start + size] for start in range(0, len(pcm), size)]


def check_conversation(messages: list[Message], clip: Clip, timbre: Client) -> None:
    """Two utterances, each measured while it lasts and answered as predict answers its samples."""
    session, *rest = messages
    assert isinstance(session, Session)
    assert (session.rate_hz, session.model_version) == (clip.rate_hz, SERVED)
    ends = [message for message in rest if isinstance(message, UtteranceEnd)]
    assert [message.utterance for message in rest if isinstance(message, UtteranceStart)] == [1, 2]
    assert [end.utterance for end in ends] == [1, 2]
    for end in ends:
        heard = timbre.predict((clip.samples[end.start_sample : end.end_sample], clip.rate_hz))
        assert end.prediction.all_emotions == pytest.approx(heard.all_emotions, abs=1e-5)
        assert end.prediction.variant == "stable"
        assert end.prediction.request_id
    for message in rest:
        if isinstance(message, Measurement):
            assert message.all_emotions.keys() == set(session.emotions)
            assert message.end_s > message.start_s


def test_live_audio_from_any_iterable(timbre: Client, spoken: dict[int, Clip]) -> None:
    clip = spoken[16_000]
    check_conversation(list(timbre.listen(frames_of(clip.pcm, clip.rate_hz), clip.rate_hz)), clip, timbre)
    arrays = iter(np.array_split(clip.samples, 100))
    check_conversation(list(timbre.listen(arrays, clip.rate_hz)), clip, timbre)
    session, *_ = timbre.listen(arrays, clip.rate_hz, hop_s=0.25)
    assert isinstance(session, Session)
    assert session.hop_s == 0.25


def test_live_audio_asynchronously(timbre: Client, url: str, spoken: dict[int, Clip]) -> None:
    clip = spoken[8_000]

    async def frames() -> AsyncIterator[bytes]:
        for frame in frames_of(clip.pcm, clip.rate_hz):
            await asyncio.sleep(0)
            yield frame

    async def converse() -> list[Message]:
        async with AsyncClient(url) as client:
            return [message async for message in client.listen(frames(), clip.rate_hz)]

    check_conversation(asyncio.run(converse()), clip, timbre)


def test_a_stream_may_be_left_and_its_client_goes_on(timbre: Client, spoken: dict[int, Clip]) -> None:
    clip = spoken[16_000]
    messages = timbre.listen(itertools.cycle(frames_of(clip.pcm, clip.rate_hz)), clip.rate_hz)
    assert isinstance(next(messages), Session)
    messages.close()
    assert timbre.predict(WAV).model_version == SERVED


def test_what_is_wrong_with_a_stream_is_raised(timbre: Client) -> None:
    with pytest.raises(RequestError, match="1000"):
        list(timbre.listen([b"\0\0"], 1000))
    with pytest.raises(UnknownVersion):
        list(timbre.listen([b"\0\0"], 16_000, version="404"))
    with pytest.raises(RequestError):
        list(timbre.listen([b"\0" * 2 * 16_000 * 60], 16_000))  # a minute in one frame

    def breaks() -> Iterator[bytes]:
        yield bytes(3200)
        raise LookupError("the microphone is gone")

    with pytest.raises(LookupError, match="microphone"):
        list(timbre.listen(breaks(), 16_000))


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
            "model_version": SERVED,
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
    for scheme in ("http", "grpc"):
        with (
            Client(f"{scheme}://127.0.0.1:{free_port()}", retries=QUICK) as client,
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


def test_readmes_example_runs(service: Service, tmp_path: Path, exported: Path, spoken: dict[int, Clip]) -> None:
    block = re.search(r"## From Python\n.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    # Somebody speaks in place of its silence.
    code, found = re.subn(r"frames = \[.*", "frames = iter(lambda: f.read(3200) or None, None)", block[1])
    assert found == 1
    code = code.replace("http://localhost:3000", service.url)
    (tmp_path / "clip.wav").write_bytes(WAV)
    (tmp_path / "exported").symlink_to(exported)
    (tmp_path / "frames.pcm").write_bytes(spoken[16_000].pcm)
    opened = "f = open('frames.pcm', 'rb')\n"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", opened + code + "\nf.close()"],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    emotion, *rest = result.stdout.splitlines()
    assert rest[:20] == [emotion] * 20
    assert rest[20].startswith("Session(")
    assert sum(line.startswith("UtteranceEnd(") for line in rest) == 2
    assert rest[-1] == emotion
