"""Live audio over real sockets: what is said when, how soon, and what becomes of those who do not keep to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket as sockets
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import websockets
from websockets.sync.client import connect

from benchmarks import streams
from benchmarks.process import Server
from benchmarks.streams import FRAME_S, GrpcLine, Line, Paced, SocketLine, converse
from serving.messages import MESSAGE, UtteranceEnd
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub
from tests.conftest import SERVED
from tests.models import copy_versions, rewrite
from tests.service import Service, metric, running, until
from tests.transports import LIVE, Clip, Talk, code_of

live = pytest.mark.parametrize("talk", LIVE, ids=lambda talk: talk.__name__)


def frames_of(clip: Clip) -> list[bytes]:
    return streams.frames_of(clip.pcm, clip.rate_hz)


def paced(line: type[Line], service: Service, clip: Clip, speed: float = 1.0) -> Coroutine[Any, Any, Paced]:
    address = service.grpc if line is GrpcLine else service.url.removeprefix("http://")
    return converse(line, address, frames_of(clip), clip.rate_hz, speed=speed)


@live
def test_the_messages_of_a_conversation(service: Service, spoken: dict[int, Clip], talk: Talk) -> None:
    messages = list(talk(service, frames_of(spoken[16_000]), 16_000))
    first = messages[0]
    labels = list(httpx.get(f"{service.url}/models").json()["models"][0]["metadata"]["labels"])
    assert (first["rate_hz"], first["model_version"], first["emotions"]) == (16_000, SERVED, labels)
    assert (first["hop_s"], first["window_s"]) == (1.5, 3.0)
    kinds = [message["type"] for message in messages[1:]]
    one = ["utterance.start", "measurement", "utterance.end"]
    assert [kind for n, kind in enumerate(kinds) if kind != kinds[n - 1]] == one + one
    for number in (1, 2):
        start, *measured, end = [message for message in messages[1:] if message["utterance"] == number]
        assert start["start_s"] == end["start_s"] < end["end_s"]
        for n, message in enumerate(measured, 1):
            assert message["end_s"] == pytest.approx(start["start_s"] + n * first["hop_s"], abs=1e-4)
            assert message["start_s"] == pytest.approx(max(start["start_s"], message["end_s"] - 3.0), abs=1e-4)
            assert sum(message["all_emotions"].values()) == pytest.approx(1, abs=1e-4)
            assert message["emotion"] == max(message["all_emotions"], key=message["all_emotions"].__getitem__)


@live
def test_measurements_come_as_often_as_asked(service: Service, spoken: dict[int, Clip], talk: Talk) -> None:
    seldom = list(talk(service, frames_of(spoken[16_000]), 16_000))
    first, *messages = talk(service, frames_of(spoken[16_000]), 16_000, hop_s=0.25)
    assert first["hop_s"] == 0.25
    for number in (1, 2):
        start, *measured, end = [message for message in messages if message["utterance"] == number]
        hops = [(message["end_s"] - start["start_s"]) / 0.25 for message in measured]
        # Every hop has its measurement, a silent one too; those of the pause that ended it may go beyond its end.
        assert hops == pytest.approx(range(1, len(hops) + 1), abs=1e-3)
        assert len(hops) >= int((end["end_s"] - start["start_s"] - 1e-3) / 0.25) >= 2
    # What an utterance is, and its answer, do not depend on how often it was looked at.
    for often, usual in zip(ended(messages), ended(seldom), strict=True):
        assert (often["start_sample"], often["end_sample"]) == (usual["start_sample"], usual["end_sample"])
        assert often["prediction"]["all_emotions"] == pytest.approx(usual["prediction"]["all_emotions"], abs=1e-5)


def ended(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message["type"] == "utterance.end"]


def test_messages_are_those_of_the_schema_and_feedback_takes_the_id(service: Service, spoken: dict[int, Clip]) -> None:
    with connect(service.listen_url(rate_hz=16_000, min_confidence=1)) as socket:
        for frame in frames_of(spoken[16_000]):
            socket.send(frame)
        socket.send('{"type": "end"}')
        messages = [MESSAGE.validate_json(text) for text in socket]
    ends = [message for message in messages if isinstance(message, UtteranceEnd)]
    assert all(end.prediction.emotion is None for end in ends)
    told = {"request_id": ends[0].request_id, "emotion": "calm"}
    assert httpx.post(f"{service.url}/feedback", json=told).json()["counted"]


@live
def test_silence_and_noise_yield_nothing(service: Service, talk: Talk) -> None:
    noise = (300 * np.random.default_rng(0).standard_normal(80_000)).astype("<i2")
    for samples in (np.zeros(160_000, "<i2"), noise):
        messages = list(talk(service, frames_of(Clip(samples, 16_000, b"")), 16_000))
        assert [message["type"] for message in messages] == ["session"]


def timeline(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(message["type"], message.get("start_s"), message.get("end_s")) for message in messages]


lines = pytest.mark.parametrize("line", [SocketLine, GrpcLine])


@lines
@pytest.mark.alone
def test_a_stream_may_be_twice_as_fast(service: Service, spoken: dict[int, Clip], line: type[Line]) -> None:
    """Every message is there, every measurement too: as many as there are hops in the utterances."""
    at_twice = asyncio.run(paced(line, service, spoken[16_000], speed=2)).messages
    at_once = list(LIVE[0](service, frames_of(spoken[16_000]), 16_000))
    assert timeline(at_twice) == timeline(at_once)
    ends = [message for message in at_twice if message["type"] == "utterance.end"]
    assert len(ends) == 2
    for end in ends:
        hops = int((end["end_s"] - end["start_s"]) / at_twice[0]["hop_s"])
        measured = [m for m in at_twice if m["type"] == "measurement" and m["utterance"] == end["utterance"]]
        assert len(measured) >= hops >= 1


_LEAST_LEFT = 0.5  # of the cores; with less, lateness says nothing of the service


def busy_s() -> float:
    """Processor time that everything on this machine has taken, all cores together, seconds."""
    user, nice, system, _, _, *interrupts = (int(ticks) for ticks in Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.alone
def test_twenty_streams_are_answered_in_time(service: Service, spoken: dict[int, Clip]) -> None:
    """Twenty voices in step and in real time: 150 ms from the frame to the measurement, for 19 of 20 measurements.

    Half of them come over either transport, and each half is held to it.

    Where others use this machine meanwhile, so much longer as they leave less of its cores, and twice as long at most:
    with less than half of them nothing is measured. It may try again, since they come and go.
    """

    async def everyone() -> list[Paced]:
        return await asyncio.gather(*(paced(line, service, spoken[16_000]) for line in over))

    def taken_s() -> tuple[float, float, float]:
        ours_s = Server(service.process, 0, 0.0).cpu_s() + time.process_time()
        return time.monotonic(), busy_s(), ours_s

    over: list[type[Line]] = [SocketLine, GrpcLine] * 10
    cores = os.cpu_count() or 1
    measured = 0
    for _ in range(3):
        before = taken_s()
        told = asyncio.run(everyone())
        took_s, all_s, ours_s = (after - since for since, after in zip(before, taken_s(), strict=True))
        assert all(len([m for m in one.messages if m["type"] == "utterance.end"]) == 2 for one in told)
        left = 1 - (all_s - ours_s) / took_s / cores
        slowest = 0.0
        for line in (SocketLine, GrpcLine):
            late = np.array(
                [seconds for its, one in zip(over, told, strict=True) if its is line for seconds in one.late]
            )
            assert len(late) >= 20
            most = float(np.quantile(late, 0.95))
            print(f"{line.__name__}: median {np.median(late):.3f} s, 95 % {most:.3f} s; {left:.0%} of the cores")
            slowest = max(slowest, most)
        if slowest < 0.15 / min(max(left, _LEAST_LEFT), 1.0):
            return
        measured += left >= _LEAST_LEFT
    if not measured:
        pytest.skip(f"others leave less than {_LEAST_LEFT:.0%} of the cores, and three times it was not in time")
    pytest.fail(f"{measured} of three times that counted, no 19 of 20 measurements were in time")


@pytest.mark.parametrize(
    ("query", "frame", "code", "closed"),
    [
        ({}, None, "invalid_request", 1008),
        ({"rate_hz": "fast"}, None, "invalid_request", 1008),
        ({"rate_hz": 16_000, "min_confidence": 2}, None, "invalid_request", 1008),
        ({"rate_hz": 16_000, "hop_s": "often"}, None, "invalid_request", 1008),
        ({"rate_hz": 16_000, "hop_s": 0.05}, None, "invalid_request", 1008),
        ({"rate_hz": 16_000, "hop_s": 3.5}, None, "invalid_request", 1008),
        ({"rate_hz": 16_000, "hop_s": "nan"}, None, "invalid_request", 1008),
        ({"rate_hz": 7_999}, None, "unsupported_audio", 1008),
        ({"rate_hz": 96_000}, None, "unsupported_audio", 1008),
        ({"rate_hz": 16_000, "version": "9"}, None, "unknown_version", 1008),
        ({"rate_hz": 16_000}, b"odd", "invalid_frame", 1008),
        ({"rate_hz": 16_000}, bytes(32_002), "invalid_frame", 1008),
        ({"rate_hz": 16_000}, "hello", "invalid_frame", 1008),
    ],
)
def test_what_is_refused_over_the_socket(service: Service, query: Any, frame: Any, code: str, closed: int) -> None:
    with connect(service.listen_url(**query)) as socket:
        if frame is not None:
            assert json.loads(socket.recv())["type"] == "session"
            socket.send(frame)
        message = json.loads(socket.recv())
        assert (message["type"], message["error"]["code"]) == ("error", code)
        with pytest.raises(websockets.ConnectionClosed):
            socket.recv()
        assert (socket.close_code, socket.close_reason) == (closed, code)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", ["rate_hz is missing", "/v1/listen?rate_hz=16000"]),
        ("rate_hz=fast", ["rate_hz must be a whole number", "'fast'"]),
        ("rate_hz=16000&min_confidence=2", ["min_confidence must be a number from 0 to 1", "'2'"]),
        ("rate_hz=16000&hop_s=often", ["hop_s must be a number", "'often'"]),
        ("rate_hz=16000&minconfidence=0.5", ["'minconfidence'", "rate_hz, hop_s, version, key, min_confidence"]),
        ("rate_hz=16000&rate_hz=8000", ["rate_hz came 2 times"]),
    ],
)
def test_a_refusal_says_which_parameter_and_what_came(service: Service, query: str, told: list[str]) -> None:
    with connect(f"{service.listen_url()}{query}") as socket:
        error = json.loads(socket.recv())["error"]
    assert error["code"] == "invalid_request"
    assert all(part in error["message"] for part in told), error["message"]


def test_asked_without_an_upgrade_it_says_that_it_is_a_websocket(service: Service) -> None:
    for method in ("GET", "POST"):
        answer = httpx.request(method, f"{service.url}/v1/listen?rate_hz=16000")
        assert (answer.status_code, answer.json()["error"]["code"]) == (426, "upgrade_required")
        assert (answer.headers["upgrade"], answer.headers["connection"]) == ("websocket", "Upgrade")
        address = f"{service.listen_url(rate_hz=16_000)}; "
        assert address in answer.json()["error"]["message"]


START = pb.ListenRequest(start=pb.ListenStart(rate_hz=16_000))


@pytest.mark.parametrize(
    ("requests", "code"),
    [
        ([], "invalid_request"),
        ([pb.ListenRequest(frame=b"ab")], "invalid_request"),
        ([pb.ListenRequest(start=pb.ListenStart(rate_hz=16_000, hop_s=0))], "invalid_request"),
        ([pb.ListenRequest(start=pb.ListenStart(rate_hz=96_000))], "unsupported_audio"),
        ([START, pb.ListenRequest(frame=b"odd")], "invalid_frame"),
        ([START, START], "invalid_frame"),
        ([START, pb.ListenRequest()], "invalid_frame"),
    ],
)
def test_what_is_refused_over_grpc(service: Service, requests: list[pb.ListenRequest], code: str) -> None:
    with grpc.insecure_channel(service.grpc) as channel, pytest.raises(grpc.RpcError) as error:
        list(TimbreStub(channel).Listen(iter(requests)))
    assert (code_of(error.value), error.value.code()) == (code, grpc.StatusCode.INVALID_ARGUMENT)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Small limits."""
    log = tmp_path_factory.mktemp("strict") / "log.txt"
    with running(log, listen_streams=2, listen_idle_s=1, listen_max_s=3) as service:
        yield service


def rest_of(socket: Any) -> list[dict[str, Any]]:
    """What else is said until the socket is closed, whatever for."""
    messages = []
    with contextlib.suppress(websockets.ConnectionClosedError):
        for text in socket:
            messages.append(json.loads(text))  # noqa: PERF401 - what came before it was closed
    return messages


def error_of(socket: Any) -> str:
    """The code of the error that ends a stream."""
    last = rest_of(socket)[-1]
    assert last["type"] == "error"
    return str(last["error"]["code"])


def then_nothing(until_set: threading.Event) -> Iterator[pb.ListenRequest]:
    """A stream that begins and then says no more."""
    yield START
    until_set.wait(60)


def test_an_idle_stream_is_ended(strict: Service) -> None:
    with connect(strict.listen_url(rate_hz=16_000)) as socket:
        assert error_of(socket) == "idle_timeout"
    silent = threading.Event()
    with grpc.insecure_channel(strict.grpc) as channel:
        call = TimbreStub(channel).Listen(then_nothing(silent))
        with pytest.raises(grpc.RpcError) as error:
            list(call)
        silent.set()
    assert (code_of(error.value), error.value.code()) == ("idle_timeout", grpc.StatusCode.DEADLINE_EXCEEDED)


def nothing(until_set: threading.Event) -> Iterator[pb.ListenRequest]:
    """A stream that is opened and never says what it wants."""
    until_set.wait(60)
    yield from ()


def test_a_grpc_stream_that_does_not_begin_counts_and_is_ended(strict: Service) -> None:
    silent = threading.Event()
    with grpc.insecure_channel(strict.grpc) as channel, httpx.Client(base_url=strict.url) as client:

        def end_of(call: Any) -> tuple[str, grpc.StatusCode]:
            with pytest.raises(grpc.RpcError) as error:
                list(call)
            return code_of(error.value), error.value.code()

        def third_is_refused() -> bool:
            """Of the others a second is left, which a busy machine may have let pass."""
            calls = [TimbreStub(channel).Listen(nothing(silent)) for _ in range(2)]
            counted = until(lambda: metric(client, "timbre_streams", transport="grpc") == 2, 2)
            third = end_of(TimbreStub(channel).Listen(nothing(silent)))
            for call in calls:
                assert end_of(call) == ("idle_timeout", grpc.StatusCode.DEADLINE_EXCEEDED)
            return counted and third[0] == "overloaded"

        assert until(third_is_refused)
        silent.set()
        assert until(lambda: metric(client, "timbre_streams") == 0)


def test_a_stream_has_a_longest_time(strict: Service) -> None:
    with connect(strict.listen_url(rate_hz=16_000)) as socket:
        sender = threading.Thread(target=keep_sending, args=(socket, bytes(3200)))
        sender.start()
        assert error_of(socket) == "stream_too_long"
        sender.join()


def test_a_grpc_stream_has_a_longest_time(strict: Service) -> None:
    over = threading.Event()

    def silence() -> Iterator[pb.ListenRequest]:
        yield START
        while not over.wait(FRAME_S):
            yield pb.ListenRequest(frame=bytes(3200))

    with grpc.insecure_channel(strict.grpc) as channel, pytest.raises(grpc.RpcError) as error:
        list(TimbreStub(channel).Listen(silence()))
    over.set()
    assert (code_of(error.value), error.value.code()) == ("stream_too_long", grpc.StatusCode.RESOURCE_EXHAUSTED)


def keep_sending(socket: Any, frame: bytes) -> None:
    try:
        while True:
            socket.send(frame)
            time.sleep(FRAME_S)
    except websockets.ConnectionClosed:
        pass


def test_too_many_streams_are_refused(strict: Service) -> None:
    with httpx.Client(base_url=strict.url) as client:
        before = metric(client, "timbre_rejects_total", reason="streams")

    def third_is_refused() -> bool:
        """Of the others a second is left, which a busy machine may have let pass."""
        with connect(strict.listen_url(rate_hz=16_000)) as first, connect(strict.listen_url(rate_hz=16_000)) as second:
            for socket in (first, second):
                assert json.loads(socket.recv())["type"] == "session"
            with connect(strict.listen_url(rate_hz=16_000)) as third:
                return (error_of(third), third.close_code) == ("overloaded", 1013)

    assert until(third_is_refused)
    with httpx.Client(base_url=strict.url) as client:
        assert until(lambda: metric(client, "timbre_streams") == 0)
        assert metric(client, "timbre_rejects_total", reason="streams") - before == 1


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Its model wants to be heard every 20 ms, which makes many messages of little audio."""
    folder = tmp_path_factory.mktemp("talkative")
    models = copy_versions(folder)
    rewrite(models / "1", lambda _: None, hop_samples=320)
    with running(folder / "log.txt", models=models, listen_send_s=0.5) as service:
        yield service


def dropped(service: Service, transport: str) -> float:
    with httpx.Client(base_url=service.url) as client:
        return metric(client, "timbre_stream_ends_total", code="slow_reader", transport=transport)


def streams_of(service: Service) -> list[str]:
    """What the metrics say of streams, for a test that fails."""
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    return [line for line in lines if line.startswith("timbre_stream")]


HANDSHAKE = (
    b"GET /v1/listen?rate_hz=16000 HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.alone
def test_a_slow_reader_of_a_socket_is_dropped(talkative: Service, spoken: dict[int, Clip]) -> None:
    """Speech comes in and nothing is read: little is kept for it, and soon it is told and closed."""
    frames = frames_of(spoken[16_000])[15:35]
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", int(talkative.url.rsplit(":", 1)[1])))
    raw.sendall(HANDSHAKE)
    before = talkative.resident_bytes()

    def send() -> None:
        with contextlib.suppress(OSError):  # the server has closed
            while True:
                for frame in frames:
                    raw.sendall(b"\x82\xfe" + len(frame).to_bytes(2, "big") + bytes(4) + frame)  # a mask of zeros

    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert until(lambda: dropped(talkative, "websocket") == 1, 120), streams_of(talkative)
        assert talkative.resident_bytes() - before < 60 << 20
        told = bytearray()
        with contextlib.suppress(ConnectionResetError):  # nobody answers its close frame
            while data := raw.recv(65_536):
                told += data
        assert told.endswith(b"\x88\x0d\x03\xf0slow_reader")  # a close frame of 13 bytes, 1008
    finally:
        raw.close()
        sender.join(30)
    assert not sender.is_alive()


@pytest.mark.alone
def test_who_pings_a_socket_and_reads_no_pongs_is_dropped(talkative: Service) -> None:
    before, ping, sent = talkative.peak_bytes(), b"\x89\xfd" + bytes(4) + bytes(125), 0
    with sockets.socket() as raw, contextlib.suppress(ConnectionError):
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        raw.settimeout(30)
        raw.connect(talkative.address)
        raw.sendall(HANDSHAKE)
        for sent in range(500):  # noqa: B007 - looked at when it is over
            raw.sendall(ping * 1000)
    assert sent < 499
    assert talkative.peak_bytes() - before < 32 << 20


def test_a_slow_reader_of_grpc_is_dropped(talkative: Service, spoken: dict[int, Clip]) -> None:
    frames = [pb.ListenRequest(frame=frame) for frame in frames_of(spoken[16_000])[15:35]]
    # Else the client's own library reads megabytes ahead.
    small = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)]
    with grpc.insecure_channel(talkative.grpc, options=small) as channel:
        call = TimbreStub(channel).Listen(itertools.chain([START], itertools.cycle(frames)))
        assert next(call).HasField("session")
        assert until(lambda: dropped(talkative, "grpc") == 1, 120)
        with pytest.raises(grpc.RpcError) as error:
            list(call)
    assert (code_of(error.value), error.value.code()) == ("slow_reader", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert "Traceback" not in talkative.log.read_text()


def test_a_client_that_leaves_is_forgotten(strict: Service) -> None:
    with httpx.Client(base_url=strict.url) as client:
        with connect(strict.listen_url(rate_hz=16_000)) as socket:
            socket.recv()
            socket.socket.close()
        with grpc.insecure_channel(strict.grpc) as channel:
            call = TimbreStub(channel).Listen(iter([START]))
            next(call)
            call.cancel()
        assert until(lambda: metric(client, "timbre_streams") == 0)


@pytest.mark.parametrize("drain_s", [0, 2])
def test_a_stop_answers_what_was_begun_and_tells_every_stream(
    tmp_path: Path, spoken: dict[int, Clip], drain_s: int
) -> None:
    with running(tmp_path / "log.txt", drain_s=drain_s) as service, grpc.insecure_channel(service.grpc) as channel:
        silent = threading.Event()
        call = TimbreStub(channel).Listen(then_nothing(silent))
        assert next(call).HasField("session")
        with connect(service.listen_url(rate_hz=16_000)) as socket:
            for frame in frames_of(spoken[16_000])[:25]:  # into the first sentence
                socket.send(frame)
            while json.loads(socket.recv())["type"] != "utterance.start":
                pass
            service.process.send_signal(signal.SIGTERM)
            told = rest_of(socket)
            assert [message["type"] for message in told if message["type"] != "measurement"] == [
                "utterance.end",
                "error",
            ]
            assert told[-1]["error"]["code"] == "stopping"
            assert socket.close_code == 1012
        with pytest.raises(grpc.RpcError) as error:
            list(call)
        assert (code_of(error.value), error.value.code()) == ("stopping", grpc.StatusCode.UNAVAILABLE)
        silent.set()
        assert service.process.wait(30) == 0
        assert "Traceback" not in service.log.read_text()
