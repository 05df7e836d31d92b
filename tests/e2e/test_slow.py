"""Clients that are slow, many, gone, or not quite HTTP; and more work than there is room for, for a while."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from websockets.sync.client import connect

from serving import server
from serving.proto.inference import inference_pb2 as oip
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub
from tests.models import copy_versions, costly
from tests.service import Service, metric, running, until
from tests.sounds import encode, voice

WAV = encode(voice(1.0), 16_000)
HEAD_OF_CHUNKS = b"POST /predict HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
HEAD = f"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Type: audio/wav\r\nContent-Length: {len(WAV)}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Waits a second for a head and two for a body."""
    log = tmp_path_factory.mktemp("impatient") / "log.txt"
    with running(log, head_timeout_s=1, upload_timeout_s=2) as service:
        yield service


@pytest.fixture(autouse=True)
def well_after(impatient: Service) -> Iterator[None]:
    yield
    answer = httpx.post(f"{impatient.url}/predict", files={"file": WAV}, timeout=60)
    assert answer.status_code == 200, answer.text
    with httpx.Client(base_url=impatient.url, timeout=60) as client:
        assert until(lambda: metric(client, "timbre_inflight") == 0)
    assert "Traceback" not in impatient.log.read_text()


def rest_of(connection: socket.socket) -> bytes:
    """What comes until the service closes; nothing more where it resets."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(1 << 16):
            got += chunk
    return got


def test_a_live_stream_is_no_head_that_does_not_come(impatient: Service) -> None:
    """It lasts longer than a head may take."""
    with connect(impatient.listen_url(rate_hz=16_000)) as stream:
        for _ in range(20):
            stream.send(bytes(3200))
            time.sleep(0.1)
        stream.send(json.dumps({"type": "end"}))
        assert [json.loads(message)["type"] for message in stream] == ["session"]
        assert stream.protocol.close_code == 1000


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"POST", HEAD[:60]], ids=["nothing", "a line", "a word", "half"])
def test_a_head_that_does_not_come_is_not_waited_for(impatient: Service, begun: bytes) -> None:
    with impatient.connect() as connection:
        connection.sendall(begun)
        answer = rest_of(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"upload_timeout" in answer


def test_a_head_that_drips_is_not_waited_for(impatient: Service) -> None:
    """Each byte is no new beginning; nor is it after an answered request."""
    for first in (b"", b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n"):
        with impatient.connect() as connection:
            connection.sendall(first)
            if first:
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
            started = time.monotonic()
            with contextlib.suppress(OSError):
                for place in range(200):
                    connection.sendall(HEAD[place % 60 : place % 60 + 1])
                    time.sleep(0.1)
            assert time.monotonic() - started < 15
            assert b" 408 " in rest_of(connection)


def test_a_head_that_does_not_end_is_refused(impatient: Service) -> None:
    with impatient.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX-Long: ")
        with contextlib.suppress(OSError):
            for _ in range(64):
                connection.sendall(b"x" * (1 << 14))
                time.sleep(0.002)
        answer = rest_of(connection)
    assert not answer or (answer.startswith(b"HTTP/1.1 431") and b"head_too_large" in answer)


def test_a_head_of_one_piece_is_refused_too(impatient: Service) -> None:
    with impatient.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\nX: " + b"x" * 200_000 + b"\r\n\r\n")
        answer = rest_of(connection)
    assert not answer or (answer.startswith(b"HTTP/1.1 431") and b"head_too_large" in answer)


@pytest.mark.parametrize(
    "endless",
    [b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n", b"\r\n", b"a: b\r\n"],
    ids=["requests", "lines", "trailers"],
)
def test_what_never_ends_is_ended(impatient: Service, endless: bytes) -> None:
    """A client that sends on, and does not read."""
    before = impatient.peak_bytes()
    piece = endless * (10_000 // len(endless))
    sent = 0
    with impatient.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(HEAD_OF_CHUNKS + b"0\r\n" if endless.startswith(b"a") else b"")
        for sent in range(10_000):  # noqa: B007 - looked at when it is over
            connection.sendall(piece)
    assert sent < 9_999
    assert impatient.peak_bytes() - before < 32 << 20


@pytest.mark.alone
def test_two_thousand_connections_that_say_nothing_harm_nobody(impatient: Service) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(2000):
            stack.enter_context(impatient.connect())
        assert httpx.post(f"{impatient.url}/predict", files={"file": WAV}, timeout=60).status_code == 200
        open_files = Path(f"/proc/{impatient.process.pid}/fd")
        assert until(lambda: len(list(open_files.iterdir())) < 200, 60)


def test_clients_that_vanish_leave_nothing(impatient: Service) -> None:
    """Mid-upload, mid-answer, mid-stream."""
    for sent in (HEAD + WAV[:5000], HEAD + WAV, HEAD + WAV + HEAD[:30]):
        for _ in range(10):
            with impatient.connect() as connection:
                connection.sendall(sent)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    from websockets.sync.client import connect

    for _ in range(5):
        with connect(impatient.listen_url(rate_hz=16_000)) as live:
            live.send(bytes(3200))
            live.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            live.socket.close()
    with httpx.Client(base_url=impatient.url) as client:
        assert until(lambda: metric(client, "timbre_streams") == 0)


def ask_for_wav(line: socket.socket, address: tuple[str, int]) -> None:
    """Ten minutes in a few kilobytes, to be made playable for a client with a small buffer; until its head has come."""
    silence = encode(np.zeros(600 * 16_000, np.float32), 16_000, "FLAC")
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.settimeout(60)
    line.connect(address)
    head = (
        f"POST /ui/playable HTTP/1.1\r\nHost: t\r\nContent-Type: audio/flac\r\nContent-Length: {len(silence)}\r\n\r\n"
    )
    line.sendall(head.encode() + silence)
    assert line.recv(15) == b"HTTP/1.1 200 OK"


def test_what_is_made_playable_counts_until_it_is_sent(service: Service) -> None:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        with socket.socket() as line:
            ask_for_wav(line, service.address)
            for _ in range(20):
                assert metric(client, "timbre_decoded_bytes") >= 4 * 600 * 16_000
                assert metric(client, "timbre_inflight") == 0
                time.sleep(0.05)
        assert until(lambda: metric(client, "timbre_decoded_bytes") == 0)


def test_what_is_made_playable_and_not_taken_counts_no_longer_than_a_body_may_take(impatient: Service) -> None:
    with httpx.Client(base_url=impatient.url, timeout=60) as client, socket.socket() as line:
        ask_for_wav(line, impatient.address)
        # Sooner than the twenty seconds after which a connection is cut off that takes nothing.
        assert until(lambda: metric(client, "timbre_decoded_bytes") == 0, 15)


def test_a_slow_body_has_its_time_and_then_gives_its_room_back(impatient: Service) -> None:
    with httpx.Client(base_url=impatient.url) as client, impatient.connect() as slow:
        begun = time.monotonic()
        slow.sendall(HEAD + WAV[:20_000])
        came = 0.0
        while time.monotonic() < begun + 1:
            came = max(came, metric(client, "timbre_upload_bytes"))
        answer = rest_of(slow)
        assert time.monotonic() >= begun + 2
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"upload_timeout" in answer
        assert came in (0, 20_000)  # nothing where this machine stood still
        assert until(lambda: metric(client, "timbre_upload_bytes") == 0)


def test_an_idle_connection_is_kept_longer_than_a_balancer_keeps_it(impatient: Service) -> None:
    """Six seconds stand for a minute: uvicorn's own limit is five."""
    with httpx.Client(base_url=impatient.url, limits=httpx.Limits(keepalive_expiry=60)) as client:
        with client.stream("GET", "/livez") as answer:
            first = answer.extensions["network_stream"].get_extra_info("client_addr")
            answer.read()
        time.sleep(6)
        with client.stream("GET", "/livez") as answer:
            assert answer.extensions["network_stream"].get_extra_info("client_addr") == first
    assert server._IDLE_S > 60  # of AWS' balancers; nginx and HAProxy close no later


def test_requests_in_a_row_are_answered_in_their_order(impatient: Service) -> None:
    with impatient.connect() as connection:
        one = b"GET /nothing/%d HTTP/1.1\r\nHost: t\r\n\r\n"
        connection.sendall(
            b"".join(one % n for n in range(50)) + b"GET /livez HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
        )
        answer = rest_of(connection)
    assert answer.count(b"HTTP/1.1 404") == 50
    places = [answer.index(b"/nothing/%d." % n) for n in range(50)]
    assert places == sorted(places)
    assert answer.count(b"HTTP/1.1 200") == 1


SMUGGLED = b"GET /experiments HTTP/1.1\r\nHost: t\r\n\r\n"
SHAPES = {
    "both lengths": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
    "a length that is none": b"Content-Length: +5\r\n\r\nhello",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "an unknown encoding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "an encoding after a tab": b"Transfer-Encoding:\tchunked, identity\r\n\r\n0\r\n\r\n",
    "a chunk that is none": b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nhello\r\n0\r\n\r\n",
    "a chunk of 2^64": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff0\r\n",
    "a space before the colon": b"Content-Length : 5\r\n\r\nhello",
    "a folded line": b"X-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a null byte": b"X-Null: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a bare line feed": b"X-Bare: a\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_two_servers_could_read_differently_is_refused(impatient: Service, shape: str) -> None:
    """Nothing behind such a request is taken for another: the connection ends with its refusal."""
    with impatient.connect() as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Type: audio/wav\r\n" + SHAPES[shape] + SMUGGLED
        )
        answer = rest_of(connection)
    assert answer.startswith(b"HTTP/1.1 4"), answer[:80]
    assert b'"variants"' not in answer


def test_calls_that_are_too_large_endless_or_cancelled(impatient: Service) -> None:
    options = (("grpc.max_send_message_length", -1),)
    with grpc.insecure_channel(impatient.grpc, options) as channel:
        stub = TimbreStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            stub.Predict(pb.PredictRequest(audio=bytes(60 << 20)), timeout=60)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

        def endless() -> Iterator[pb.PredictRequest]:
            while True:
                yield pb.PredictRequest(audio=b"nothing")

        with pytest.raises(grpc.RpcError) as error:
            stub.PredictMany(endless(), timeout=60)
        assert "too_many_files" in (error.value.details() or "")
        for _ in range(2000):  # each a stream that is reset at once
            stub.Predict.future(pb.PredictRequest(audio=WAV)).cancel()
        with grpc.insecure_channel(impatient.grpc) as other:
            assert TimbreStub(other).Predict(pb.PredictRequest(audio=WAV), timeout=60).all_emotions

        def answered() -> bool:
            try:
                return bool(stub.Predict(pb.PredictRequest(audio=WAV), timeout=60).all_emotions)
            except grpc.RpcError as refused:  # by HTTP/2, while more streams of this connection end than there may be
                if refused.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return False

        assert until(answered)


def test_a_message_of_countless_things_is_refused_and_fills_no_memory(impatient: Service) -> None:
    """Two bytes make an empty tensor of a hundred, or one of two inputs of which the last is shown; in streams too."""
    before = impatient.peak_bytes()
    with grpc.insecure_channel(impatient.grpc, (("grpc.max_send_message_length", -1),)) as opened:
        channel: Any = opened  # its types know of no bytes that are a message already
        name = "/inference.GRPCInferenceService/"
        for tiny in (b"\x2a\x00", b"\x32\x00", b"\x3a\x00"):
            message = tiny * (12 << 20)
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(f"{name}ModelInfer")(message, timeout=60)
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (error.value.details() or "").startswith("too_large: The message has over")
        (answer,) = channel.stream_stream(f"{name}ModelStreamInfer", None, oip.ModelStreamInferResponse.FromString)(
            iter([message]), timeout=60
        )
        assert answer.error_message.startswith("too_large: The message has over")
        by_turns = b"\x0a\x00\x12\x00" * (1 << 20) + pb.PredictRequest(audio=WAV).SerializeToString()
        many = channel.stream_unary("/timbre.v1.Timbre/PredictMany", None, pb.PredictManyResponse.FromString)
        (refused,) = many(iter([by_turns]), timeout=60).answers
        assert refused.error.code == "too_large"
        for call, asked in (
            (channel.unary_unary("/timbre.v1.Timbre/Predict"), by_turns),
            (channel.stream_stream("/timbre.v1.Timbre/Listen"), iter([b"\x0a\x02\x12\x00\x12\x00" * (1 << 20)])),
            (
                channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
                iter([b"\x2a\x00\x1a\x00" * (1 << 20)]),
            ),
        ):
            with pytest.raises(grpc.RpcError) as error:
                _ = list(call(asked, timeout=60))
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (error.value.details() or "").startswith("too_large: The message has over 64 fields")
    assert impatient.peak_bytes() - before < 200 << 20


def load(url: str, seconds: float, *, clients: int = 0, a_second: float = 0) -> tuple[Counter[int], float]:
    """Answers by status, and good ones a second: of clients that ask again and again, or of so many asked a second."""
    found: Counter[int] = Counter()
    begun = time.monotonic()

    async def one(session: httpx.AsyncClient) -> None:
        answer = await session.post(f"{url}/predict", content=WAV, headers={"Content-Type": "audio/wav"})
        found[answer.status_code] += 1
        if answer.status_code in (429, 503):
            assert int(answer.headers["retry-after"]) >= 1

    async def client(session: httpx.AsyncClient) -> None:
        while time.monotonic() < begun + seconds:
            await one(session)

    async def everybody() -> None:
        async with (
            httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(clients):
                tasks.create_task(client(session))
            for number in range(int(seconds * a_second)):
                await asyncio.sleep(begun + number / a_second - time.monotonic())
                tasks.create_task(one(session))

    asyncio.run(everybody())
    return found, found[200] / (time.monotonic() - begun)


def quickest_s(url: str) -> float:
    """Of some requests, one after the other: what is left of a crowd would be before each of them."""

    def one(session: httpx.Client) -> float:
        begun = time.perf_counter()
        session.post("/predict", files={"file": WAV}).raise_for_status()
        return time.perf_counter() - begun

    with httpx.Client(base_url=url, timeout=60) as session:
        return min(one(session) for _ in range(5))


@pytest.mark.alone
def test_five_times_as_much_as_can_be_answered_for_a_minute(tmp_path: Path) -> None:
    """With a model that costs far more than asking does: the load comes from the same cores."""
    models = copy_versions(tmp_path, "2", change=costly(20))
    with running(tmp_path / "log.txt", models=models, max_inflight=8) as service:
        load(service.url, 1, clients=8)
        _, before = load(service.url, 4, clients=8)
        alone_s = quickest_s(service.url)
        found, goodput = load(service.url, 60, a_second=5 * before)
        time.sleep(2)
        assert quickest_s(service.url) < 1.5 * alone_s
        assert set(found) == {200, 429}
        assert found[429] > found[200]
        after, normal = load(service.url, 4, clients=8)
        if normal <= 0.7 * before:  # the machine may have had other work
            after, normal = load(service.url, 8, clients=8)
        assert set(after) == {200}
        assert normal > 0.7 * before
        # What the machine can has two measurements, since it may have had other work meanwhile.
        assert goodput > 0.8 * min(before, normal), (before, goodput, normal)
