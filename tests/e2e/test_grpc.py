"""gRPC as its clients meet it: health, reflection, deadlines, cancelling, limits, ages, workers, a stop."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from grpc_status import rpc_status

from benchmarks.streams import frames_of
from serving.lifecycle import FINISH_S
from serving.proto.inference import inference_pb2
from serving.proto.inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub
from tests.conftest import SERVED
from tests.models import copy_versions, costly
from tests.service import Service, children, free_port, metric, refusal, running, until
from tests.sounds import encode, voice
from tests.transports import Clip, code_of

WAV = encode(voice(1.0), 16_000)
SERVICES = ("", "timbre.v1.Timbre", "inference.GRPCInferenceService")
Status = health_pb2.HealthCheckResponse.ServingStatus


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two minutes of speech take many seconds; two requests at a time."""
    folder = tmp_path_factory.mktemp("slow")
    models = copy_versions(folder, "2", change=costly(12))
    with running(folder / "log.txt", models=models, max_inflight=2) as service:
        yield service


def health(channel: grpc.Channel, service: str = "") -> Any:
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service)).status


def test_health_is_told_per_service(service: Service) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        assert until(lambda: [health(channel, name) for name in SERVICES] == 3 * [Status.SERVING])
        with pytest.raises(grpc.RpcError) as unknown:
            health(channel, "nobody")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_is_enough_to_ask(service: Service) -> None:
    """A client without our stubs finds the service and calls it."""
    with grpc.insecure_channel(service.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {*SERVICES[1:], "grpc.health.v1.Health"} <= set(database.get_services())
        method = DescriptorPool(database).FindServiceByName("timbre.v1.Timbre").FindMethodByName("Predict")
        request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_unary("/timbre.v1.Timbre/Predict", request.SerializeToString, answer.FromString)
        told: Any = call(request(audio=WAV))
        assert told.model_version == SERVED


def test_the_answer_has_the_fields_of_http(service: Service) -> None:
    from google.protobuf.json_format import MessageToDict

    expected = httpx.post(f"{service.url}/predict", files={"file": ("a.wav", WAV)}).json()
    with grpc.insecure_channel(service.grpc) as channel:
        request = pb.PredictRequest(audio=WAV, options=pb.Options(filename="a.wav"))
        answer, call = TimbreStub(channel).Predict.with_call(request)
    told = MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    assert set(told) == set(expected)
    assert {**told, "timing_ms": 0} == {**expected, "timing_ms": 0}
    metadata = dict(call.trailing_metadata() or ())
    assert (metadata["x-model-version"], metadata["x-timbre-variant"]) == (SERVED, "stable")
    feedback = {"request_id": metadata["x-request-id"], "emotion": expected["emotion"]}
    assert httpx.post(f"{service.url}/feedback", json=feedback).json()["agreed"]


def test_many_are_answered_in_their_order(service: Service) -> None:
    """Long and short ones in turn, and bad ones among them."""
    clips = [encode(voice(seconds, seed=n), 16_000) for n, seconds in enumerate((9.0, 0.5, 4.0, 1.0) * 4)]
    clips[5] = b"bad"
    with grpc.insecure_channel(service.grpc) as channel:
        answers = TimbreStub(channel).PredictMany(iter([pb.PredictRequest(audio=clip) for clip in clips])).answers
    lengths = [answer.prediction.duration_s for answer in answers]
    assert lengths == [9.0, 0.5, 4.0, 1.0, 9.0, 0.0, 4.0, 1.0, *(9.0, 0.5, 4.0, 1.0) * 2]
    assert answers[5].error.code == "unsupported_audio"
    assert all(answer.request_id for n, answer in enumerate(answers) if n != 5)


def test_too_many_clips_are_refused(service: Service) -> None:
    with grpc.insecure_channel(service.grpc) as channel, pytest.raises(grpc.RpcError) as error:
        TimbreStub(channel).PredictMany(iter([pb.PredictRequest(audio=b"x")] * 257))
    assert (code_of(error.value), error.value.code()) == ("too_many_files", grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize(
    ("request_", "code", "status"),
    [
        (pb.PredictRequest(), "missing_file", "INVALID_ARGUMENT"),
        (pb.PredictRequest(audio=b"x"), "unsupported_audio", "INVALID_ARGUMENT"),
        (pb.PredictRequest(pcm=pb.Pcm(samples=b"abc", rate_hz=16_000)), "unsupported_audio", "INVALID_ARGUMENT"),
        (pb.PredictRequest(pcm=pb.Pcm(samples=bytes(32_000))), "unsupported_audio", "INVALID_ARGUMENT"),
        (pb.PredictRequest(audio=WAV, options=pb.Options(model_version="9")), "unknown_version", "NOT_FOUND"),
        (pb.PredictRequest(audio=bytes((25 << 20) + 1)), "too_large", "RESOURCE_EXHAUSTED"),
    ],
    ids=["nothing", "no-audio", "half-a-sample", "no-rate", "no-version", "large"],
)
def test_errors_have_their_status(service: Service, request_: Any, code: str, status: str) -> None:
    with grpc.insecure_channel(service.grpc) as channel, pytest.raises(grpc.RpcError) as error:
        TimbreStub(channel).Predict(request_)
    assert (code_of(error.value), error.value.code()) == (code, grpc.StatusCode[status])


def test_what_is_far_too_large_is_not_read(service: Service) -> None:
    with grpc.insecure_channel(service.grpc, options=[("grpc.max_send_message_length", -1)]) as channel:
        with pytest.raises(grpc.RpcError) as error:
            TimbreStub(channel).Predict(pb.PredictRequest(audio=bytes(40 << 20)))
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert TimbreStub(channel).Predict(pb.PredictRequest(audio=WAV)).model_version == SERVED


def counted(service: Service, name: str) -> float:
    with httpx.Client(base_url=service.url) as client:
        return metric(client, name)


def inflight(service: Service) -> float:
    return counted(service, "timbre_inflight")


LONG = pb.PredictRequest(audio=encode(voice(120.0), 16_000))


def tensor_of(request: pb.PredictRequest) -> inference_pb2.ModelInferRequest:
    """The same question in the words of the Open Inference Protocol."""
    asked = inference_pb2.ModelInferRequest(model_name="timbre")
    asked.inputs.add(name="audio", datatype="BYTES", shape=[1]).contents.bytes_contents.append(request.audio)
    return asked


def predict(channel: grpc.Channel, **call: Any) -> Any:
    return TimbreStub(channel).Predict.future(LONG, **call)


def predict_many(channel: grpc.Channel, **call: Any) -> Any:
    return TimbreStub(channel).PredictMany.future(iter([LONG]), **call)


def model_infer(channel: grpc.Channel, **call: Any) -> Any:
    return GRPCInferenceServiceStub(channel).ModelInfer.future(tensor_of(LONG), **call)


def model_stream_infer(channel: grpc.Channel, **call: Any) -> Any:
    return GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([tensor_of(LONG)]), **call)


def refusal_of(call: Any, begin: Any) -> str:
    """The code word that a call brings, in its status or in the answer to its only question; else its status."""
    try:
        answer = next(call) if begin is model_stream_infer else call.result()
    except grpc.RpcError as error:
        return code_of(error) if rpc_status.from_call(error) else str(error.code().name)
    if isinstance(answer, pb.PredictManyResponse):
        return str(answer.answers[0].error.code)
    return str(answer.error_message.split(":")[0])


every_way = pytest.mark.parametrize("begin", [predict, predict_many, model_infer, model_stream_infer])


def given_up(service: Service) -> bool:
    """Whether nothing is being worked on any more, and nothing waits to be."""
    with httpx.Client(base_url=service.url) as client:
        return metric(client, "timbre_inflight") == metric(client, "timbre_queue_windows") == 0


@every_way
def test_a_deadline_is_honoured(slow: Service, begin: Any) -> None:
    """The client hears of it from its own library or from us, and the work that nobody waits for is dropped."""
    with grpc.insecure_channel(slow.grpc) as channel:
        assert refusal_of(begin(channel, timeout=0.5), begin) in ("DEADLINE_EXCEEDED", "deadline_exceeded")
        assert until(lambda: given_up(slow))


@every_way
def test_a_cancelled_call_is_given_up(slow: Service, begin: Any) -> None:
    with grpc.insecure_channel(slow.grpc) as channel:
        call = begin(channel)
        assert until(lambda: inflight(slow) == 1)
        call.cancel()
        assert until(lambda: given_up(slow))


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """As slow, and it gives itself half a second, and who sends a second and a half."""
    folder = tmp_path_factory.mktemp("impatient")
    models = copy_versions(folder, "2", change=costly(4))
    with running(folder / "log.txt", models=models, timeout_s=0.5, upload_timeout_s=1.5) as service:
        yield service


@every_way
def test_what_is_not_ready_in_time_is_told_by_its_code_word(impatient: Service, begin: Any) -> None:
    with grpc.insecure_channel(impatient.grpc) as channel:
        call = begin(channel)
        assert refusal_of(call, begin) == "deadline_exceeded"
        if begin in (predict, model_infer):
            assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert until(lambda: given_up(impatient))


def test_streams_that_say_nothing_are_ended(impatient: Service) -> None:
    """What came before is answered."""
    heard = threading.Event()

    def then_nothing(*asked: Any) -> Iterator[Any]:
        yield from asked
        heard.wait(120)

    clip = pb.PredictRequest(audio=WAV)
    with grpc.insecure_channel(impatient.grpc) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelStreamInfer
        calls: list[Any] = [
            TimbreStub(channel).PredictMany.future(then_nothing()),
            TimbreStub(channel).PredictMany.future(then_nothing(clip)),
            infer(then_nothing()),
            infer(then_nothing(tensor_of(clip))),
        ]
        reflected = ServerReflectionStub(channel).ServerReflectionInfo(then_nothing())
        began = time.monotonic()
        answer = next(calls[-1]).error_message  # or none: half a second is enough where the machine is quick
        assert not answer or answer.startswith("deadline_exceeded")
        for call in calls:
            with pytest.raises(grpc.RpcError) as error:
                call.result() if call in calls[:2] else list(call)
            assert (code_of(error.value), error.value.code()) == ("idle_timeout", grpc.StatusCode.DEADLINE_EXCEEDED)
        assert list(reflected) == []
        assert time.monotonic() - began < 30
        heard.set()
        assert until(lambda: given_up(impatient))


def test_overload_says_when_to_try_again(slow: Service) -> None:
    with grpc.insecure_channel(slow.grpc) as channel:
        stub = TimbreStub(channel)
        calls = [stub.Predict.future(LONG) for _ in range(2)]
        assert until(lambda: inflight(slow) == 2)
        with pytest.raises(grpc.RpcError) as error:
            stub.Predict(pb.PredictRequest(audio=WAV))
        assert (code_of(error.value), error.value.code()) == ("overloaded", grpc.StatusCode.RESOURCE_EXHAUSTED)
        status = rpc_status.from_call(error.value)
        assert status is not None
        retry = error_details_pb2.RetryInfo()
        assert status.details[1].Unpack(retry)
        assert retry.retry_delay.ToTimedelta().total_seconds() == 1
        # Refused before it is unpacked: what its message says is not looked at.
        with pytest.raises(grpc.RpcError) as error:
            GRPCInferenceServiceStub(channel).ModelInfer(inference_pb2.ModelInferRequest(model_name="another"))
        assert code_of(error.value) == "overloaded"
        with httpx.Client(base_url=slow.url) as client:
            for transport in ("grpc", "oip-grpc"):
                assert metric(client, "timbre_requests_total", transport=transport, code="overloaded") == 1
            assert metric(client, "timbre_rejects_total", reason="permits") == 2
        for call in calls:
            call.cancel()


def greeted(connection: socket.socket) -> bool:
    """Whether gRPC speaks on it, which it does first; else it has been closed."""
    connection.settimeout(60)
    return bool(connection.recv(1))


def test_connections_are_bounded_and_http_has_room_beside_them(tmp_path: Path) -> None:
    few = 3

    def connect() -> socket.socket:
        return stack.enter_context(service.connect_grpc())

    with running(tmp_path / "log.txt", grpc_connections=few) as service, contextlib.ExitStack() as stack:
        crowd = [connect() for _ in range(few)]
        assert all(greeted(connection) for connection in crowd)
        assert not greeted(connect())
        assert httpx.post(f"{service.url}/predict", files={"file": WAV}, timeout=60).is_success
        crowd[0].close()
        with grpc.insecure_channel(service.grpc) as channel:
            assert TimbreStub(channel).Predict(pb.PredictRequest(audio=WAV), wait_for_ready=True, timeout=60).emotion


@pytest.fixture(scope="module")
def aging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """It wants no connection to last longer than a second."""
    with running(tmp_path_factory.mktemp("aging") / "log.txt", grpc_age_s=1) as service:
        yield service


def test_connections_are_asked_to_go(aging: Service) -> None:
    """A channel reconnects and nothing fails; the state shows that its connection was closed."""
    with grpc.insecure_channel(aging.grpc) as channel:
        states: list[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append)

        def reconnected() -> bool:
            TimbreStub(channel).Predict(pb.PredictRequest(audio=WAV))
            return states.count(grpc.ChannelConnectivity.READY) > 1

        assert until(reconnected)


def test_a_live_stream_outlives_the_age_of_its_connection(aging: Service, spoken: dict[int, Clip]) -> None:
    """Another call takes another connection meanwhile, and the stream is heard to its end on the old one."""
    frames = frames_of(spoken[16_000].pcm, 16_000)

    def speaking() -> Iterator[pb.ListenRequest]:
        yield pb.ListenRequest(start=pb.ListenStart(rate_hz=16_000))
        for frame in frames:
            time.sleep(4 / len(frames))
            yield pb.ListenRequest(frame=frame)

    with grpc.insecure_channel(aging.grpc) as channel:
        states: list[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append)
        messages = TimbreStub(channel).Listen(speaking())
        first = next(messages)
        ready = grpc.ChannelConnectivity.READY
        assert until(lambda: ready in states and states[-1] is not ready)
        assert TimbreStub(channel).Predict(pb.PredictRequest(audio=WAV)).model_version == SERVED
        assert until(lambda: states.count(ready) > 1)  # states are told by a thread of their own
        kinds = [message.WhichOneof("message") for message in (first, *messages)]
        assert kinds.count("utterance_end") == 2
        assert "error" not in kinds


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, ACK = 4, 6, 1


def frame(kind: int, flags: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1) on the connection itself."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload


def frames_from(connection: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Kind, flags and payload of each frame that comes, until the connection is closed."""
    with connection.makefile("rb") as stream:
        while len(head := stream.read(9)) == 9:
            yield head[3], head[4], stream.read(int.from_bytes(head[:3], "big"))


def test_a_quiet_connection_is_kept_and_a_dead_one_is_closed(tmp_path: Path) -> None:
    """It is asked whether it lives: who answers stays, who does not is let go."""
    with running(tmp_path / "log.txt", grpc_ping_s=1) as service, service.connect_grpc() as connection:
        connection.sendall(PREFACE + frame(SETTINGS, 0))
        pings = 0
        for kind, flags, payload in frames_from(connection):
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(frame(SETTINGS, ACK))
            if kind == PING and not flags & ACK:
                pings += 1
                if pings < 3:
                    connection.sendall(frame(PING, ACK, payload))
        assert pings == 3  # and then it was closed


def test_a_stop_is_told_at_once_and_finishes_what_is_in_flight(tmp_path: Path) -> None:
    models = copy_versions(tmp_path, "2", change=costly(4))
    with (
        running(tmp_path / "log.txt", models=models, drain_s=60) as service,
        grpc.insecure_channel(service.grpc) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="timbre.v1.Timbre"))
        while next(watch).status != Status.SERVING:
            pass
        call = TimbreStub(channel).Predict.future(pb.PredictRequest(audio=encode(voice(120.0), 16_000)))
        assert until(lambda: inflight(service) == 1)
        service.process.send_signal(signal.SIGTERM)
        assert next(watch).status == Status.NOT_SERVING
        assert TimbreStub(channel).Predict(pb.PredictRequest(audio=WAV)).model_version == "2"
        service.process.send_signal(signal.SIGTERM)  # drained long enough
        assert call.result(timeout=60).duration_s == 120.0
        assert service.process.wait(60) == 0


def test_idle_streams_do_not_hold_up_a_stop(tmp_path: Path) -> None:
    """Every kind that a client may keep open is ended, and told why where the protocol has words for it."""
    silent = threading.Event()

    def nothing() -> Iterator[Any]:
        silent.wait(120)
        yield from ()

    with running(tmp_path / "log.txt") as service, grpc.insecure_channel(service.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status in (Status.SERVING, Status.NOT_SERVING)
        many = TimbreStub(channel).PredictMany.future(nothing())
        streams = [TimbreStub(channel).Listen(nothing()), GRPCInferenceServiceStub(channel).ModelStreamInfer(nothing())]
        reflected = ServerReflectionStub(channel).ServerReflectionInfo(nothing())
        assert TimbreStub(channel).Predict(pb.PredictRequest(audio=WAV)).model_version == SERVED
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < FINISH_S / 2
        silent.set()
        with pytest.raises(grpc.RpcError) as refused:
            many.result()
        assert code_of(refused.value) == "stopping"
        for stream in (watch, *streams):
            with pytest.raises(grpc.RpcError) as error:
                list(stream)
            assert (code_of(error.value), error.value.code()) == ("stopping", grpc.StatusCode.UNAVAILABLE)
        assert list(reflected) == []
        assert "Traceback" not in service.log.read_text()


def with_finish_s(folder: Path, finish_s: float) -> str:
    """A Python to start a service with, in which what is in flight at a stop has so long."""
    python = folder / "python"
    python.write_text(
        f"#!{sys.executable}\nimport runpy, sys\nsys.path[0] = ''\ndel sys.argv[1:3]\nimport serving.lifecycle\n"
        f"serving.lifecycle.FINISH_S = {finish_s}\nrunpy.run_module('serving', run_name='__main__', alter_sys=True)\n"
    )
    python.chmod(0o755)
    return str(python)


@pytest.mark.timed
def test_what_goes_on_over_http_and_over_grpc_holds_up_a_stop_once(tmp_path: Path) -> None:
    """A body that drips has all the time that there is, and a stream of clips does not have it once more."""
    finish_s = 10.0
    over = threading.Event()

    def clips() -> Iterator[pb.PredictRequest]:
        while not over.wait(0.2):
            yield pb.PredictRequest(audio=WAV)

    python = with_finish_s(tmp_path, finish_s)
    with (
        running(tmp_path / "log.txt", python) as service,
        grpc.insecure_channel(service.grpc) as channel,
        service.connect() as line,
    ):
        many = TimbreStub(channel).PredictMany.future(clips())
        line.sendall(b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Type: audio/wav\r\nContent-Length: 1000000\r\n\r\n")

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not over.wait(0.2):
                    line.sendall(b"RIFF")

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert until(lambda: not many.done() and counted(service, "timbre_requests_total") > 0)
        began = time.monotonic()
        assert service.stop() == 0
        took_s = time.monotonic() - began
        over.set()
        dripping.join()
        assert many.exception() is not None
    assert finish_s <= took_s < 1.7 * finish_s


def test_a_stream_that_goes_on_is_answered_while_the_service_drains(tmp_path: Path) -> None:
    infer = tensor_of(pb.PredictRequest(audio=WAV))
    with running(tmp_path / "log.txt", drain_s=60) as service, grpc.insecure_channel(service.grpc) as channel:

        def questions() -> Iterator[inference_pb2.ModelInferRequest]:
            yield infer
            service.process.send_signal(signal.SIGTERM)
            assert until(lambda: bool(health(channel) == Status.NOT_SERVING))
            yield infer

        stub = GRPCInferenceServiceStub(channel)
        answers = list(stub.ModelStreamInfer(questions()))
        assert [answer.error_message for answer in answers] == ["", ""]
        assert service.process.poll() is None
        assert service.stop() == 0  # the second signal, which ends the draining


def test_the_index_has_on_request_only_what_is_ready(tmp_path: Path) -> None:
    """Over gRPC and HTTP; a version that drains is unavailable."""
    with (
        running(tmp_path / "log.txt", drain_s=60) as service,
        grpc.insecure_channel(service.grpc) as channel,
        httpx.Client(base_url=service.url) as client,
    ):
        stub, path = GRPCInferenceServiceStub(channel), "/v2/repository/index"

        def told(*, ready: bool) -> tuple[list[str], list[str]]:
            over_grpc = stub.RepositoryIndex(inference_pb2.RepositoryIndexRequest(ready=ready)).models
            over_http = client.post(path, json={"ready": ready}).json()
            return [model.state for model in over_grpc], [model["state"] for model in over_http]

        assert told(ready=True) == told(ready=False) == (["READY"], ["READY"])
        assert [model["state"] for model in client.post(path).json()] == ["READY"]
        assert client.post(path, content=b'{"ready": "perhaps"}').status_code == 422
        service.process.send_signal(signal.SIGTERM)
        assert until(lambda: bool(health(channel) == Status.NOT_SERVING))
        assert told(ready=False) == (["UNAVAILABLE"], ["UNAVAILABLE"])
        assert told(ready=True) == ([], [])


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("timbre", "", True), ("timbre", SERVED, True), ("timbre", "9", False), ("tone", "", False)],
)
def test_a_model_that_is_unknown_is_not_ready(service: Service, name: str, version: str, ready: bool) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        request = inference_pb2.ModelReadyRequest(name=name, version=version)
        assert GRPCInferenceServiceStub(channel).ModelReady(request).ready is ready


def test_workers_share_the_port(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", workers=2) as service, httpx.Client(base_url=service.url) as client:
        assert until(lambda: len(children(service.process.pid)) == 2, 60)  # the second comes once the first answers

        def asked() -> bool:
            """On a connection of its own, which the kernel gives to either; one may still be starting."""
            with grpc.insecure_channel(service.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                try:
                    TimbreStub(channel).Predict(pb.PredictRequest(audio=WAV))
                except grpc.RpcError as error:
                    if code_of(error) != "starting":
                        raise
                    return False
                return True

        assert until(lambda: all(asked() for _ in range(12)), 60)
        answered = metric(client, "timbre_requests_total", transport="grpc", code="ok")
        assert answered >= 12
        assert all(asked() for _ in range(12))
        assert metric(client, "timbre_requests_total", transport="grpc", code="ok") == answered + 12


@pytest.mark.parametrize("workers", [1, 2])
def test_a_grpc_port_in_use_is_told(service: Service, workers: int) -> None:
    port = service.grpc.rsplit(":", 1)[1]
    result = refusal(grpc_port=port, workers=workers)
    assert result.returncode == 1
    assert f"127.0.0.1:{port} cannot be listened on" in result.stderr
    assert "Traceback" not in result.stderr


def test_there_may_be_no_grpc(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", grpc_port=0) as service:
        answer = httpx.post(f"{service.url}/predict", files={"file": WAV})
        assert answer.is_success
        assert "grpc" not in Path(f"/proc/{service.process.pid}/maps").read_text()


def accepts(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_it_says_that_it_is_starting(tmp_path: Path) -> None:
    """Before there is a model calls are refused as unavailable, and health says so."""
    from tests.service import environment, start_process, wait_until_ready

    models = copy_versions(tmp_path, "2", change=costly(8))  # whose warm-up takes a while
    env = environment(port=free_port(), grpc_port=free_port(), drain_s=0, models=models)
    service = start_process(tmp_path / "log.txt", env)
    try:
        assert until(lambda: accepts(service.grpc))  # a channel that came too early tries again when all is loaded
        with grpc.insecure_channel(service.grpc) as channel:
            assert health(channel) == Status.NOT_SERVING
            with pytest.raises(grpc.RpcError) as error:
                TimbreStub(channel).Predict(pb.PredictRequest(audio=WAV))
            assert (code_of(error.value), error.value.code()) == ("starting", grpc.StatusCode.UNAVAILABLE)
            wait_until_ready(service)
            assert until(lambda: bool(health(channel) == Status.SERVING))
    finally:
        assert service.stop() == 0
