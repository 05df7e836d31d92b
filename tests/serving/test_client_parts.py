"""The client's pieces that need no service."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from serving.client import Client, Measurement, Retries, Session, UtteranceEnd, UtteranceFailed, UtteranceStart
from serving.client.answers import Prediction, message
from serving.client.asynchronous import in_order
from serving.client.clips import pcm, wav
from serving.client.http import _broken
from serving.commands.listen import _noting
from serving.errors import (
    AudioTooShort,
    DeadlineExceeded,
    InternalError,
    NoSpeech,
    Overloaded,
    RequestError,
    SlowReader,
    Starting,
    Stopping,
    TimbreError,
    TooLarge,
    UnexpectedAnswer,
    Unreachable,
    VersionRetired,
    refusal,
)
from tests.conftest import ROOT
from tests.sounds import voice
from tests.virtual import run_virtually

PREDICTION = {
    "emotion": "happy",
    "confidence": 0.9,
    "all_emotions": {"happy": 0.9, "sad": 0.1},
    "filename": None,
    "model_version": "1",
    "duration_s": 1.0,
    "segments": [],
    "timing_ms": {"decode": 1, "queue": 0, "inference": 2, "total": 3},
}


class Failing:
    """Raises one error after another, then answers; remembers when it was asked."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.asked: list[float] = []

    async def __call__(self) -> str:
        self.asked.append(asyncio.get_running_loop().time())
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


def ask(failing: Failing, retries: Retries | None = None, timeout_s: float = 1000.0) -> str:
    return run_virtually((retries or Retries()).within(timeout_s)(failing))


@pytest.mark.parametrize("error", [Unreachable("gone"), Overloaded("full"), Starting("not yet"), Stopping("going")])
def test_what_computed_nothing_is_tried_again(error: Exception) -> None:
    failing = Failing(error, error)
    assert ask(failing) == "answer"
    assert len(failing.asked) == 3


@pytest.mark.parametrize("error", [NoSpeech("silence"), DeadlineExceeded("slow"), InternalError("ours"), OSError()])
def test_what_would_fail_again_or_burden_the_service_is_not(error: Exception) -> None:
    failing = Failing(error)
    with pytest.raises(type(error)):
        ask(failing)
    assert len(failing.asked) == 1


def test_waits_grow_are_jittered_and_come_on_top_of_what_the_service_says() -> None:
    waits: list[list[float]] = []
    for _ in range(200):
        failing = Failing(*[Overloaded("full", retry_after_s=2)] * 4)
        ask(failing)
        waits.append([later - earlier for earlier, later in zip(failing.asked, failing.asked[1:], strict=False)])
    for place, most in enumerate((0.2, 0.4, 0.8, 1.6)):
        drawn = [row[place] - 2 for row in waits]
        assert 0 <= min(drawn) < 0.2 * most
        assert 0.8 * most < max(drawn) <= most + 1e-6


def test_tries_and_time_are_bounded_and_the_last_error_is_told() -> None:
    failing = Failing(*[Unreachable(f"{n}") for n in range(9)])
    with pytest.raises(Unreachable, match="2"):
        ask(failing, Retries(attempts=3))
    assert len(failing.asked) == 3
    late = Failing(*[Overloaded("full", retry_after_s=0.3)] * 9)
    with pytest.raises(Overloaded):
        asyncio.run(Retries().within(timeout_s=0.5)(late))
    assert len(late.asked) <= 2


def test_many_are_begun_ahead_in_order_and_what_is_left_is_cancelled() -> None:
    class Work:
        def __init__(self, name: int) -> None:
            self.name, self.cancelled = name, False

        def cancel(self) -> bool:
            self.cancelled = True
            return True

    begun: list[Work] = []

    def begin(name: int) -> Work:
        begun.append(Work(name))
        return begun[-1]

    work = in_order(range(100), begin, 4)
    assert [next(work).name, next(work).name] == [0, 1]
    assert len(begun) == 5
    work.close()
    assert [one.cancelled for one in begun] == [False, False, True, True, True]
    assert [one.name for one in in_order(range(3), begin, 8)] == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
def test_samples_are_sent_as_they_are(dtype: str) -> None:
    sound = voice(0.5)
    full = np.iinfo(dtype).max if dtype.startswith("int") else 1
    given = (sound * full).astype(dtype)
    stereo = np.stack([given, given], axis=1)
    for samples in (given, stereo, given.astype(given.dtype.newbyteorder(">"))):
        back, rate_hz = soundfile.read(io.BytesIO(wav(samples, 16_000)), dtype="float64")
        assert rate_hz == 16_000
        assert back == pytest.approx(samples / (full + (full > 1)), abs=1e-7)


@pytest.mark.parametrize(
    "samples", [np.zeros(9, "uint8"), np.zeros(9, "complex64"), np.zeros((2, 16_000), "float32"), np.zeros(())]
)
def test_what_is_no_audio_is_told_before_it_is_sent(samples: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="audio"):
        wav(samples, 16_000)


def test_frames_become_16_bit_little_endian() -> None:
    assert pcm(b"\x01\x02") == b"\x01\x02"
    assert pcm(np.array([1, -2], "int16")) == b"\x01\x00\xfe\xff"
    assert pcm(np.array([1, -2], ">i2")) == b"\x01\x00\xfe\xff"
    assert pcm(np.array([1.0, -1.0, 2.0])) == b"\xff\x7f\x01\x80\xff\x7f"
    assert pcm(np.array([1.0, -1.0, 2.0], ">f4")) == b"\xff\x7f\x01\x80\xff\x7f"
    with pytest.raises(ValueError, match="mono"):
        pcm(np.zeros((10, 2), "float32"))
    with pytest.raises(TypeError, match="int64"):
        pcm(np.zeros(10, "int64"))


def test_every_refusal_has_its_class_and_others_are_told() -> None:
    for error in RequestError.__subclasses__():
        told = refusal(error.code, "Why.", figure=7)
        assert type(told) is error
        assert told.details == {"figure": 7}
    assert isinstance(refusal("of_tomorrow", "Why."), UnexpectedAnswer)


def test_messages_of_a_live_stream() -> None:
    assert message(
        {"type": "session", "rate_hz": 8000, "model_version": "1", "hop_s": 1.5, "window_s": 3, "emotions": ["sad"]}
    ) == Session(8000, "1", 1.5, 3, ("sad",))
    assert message({"type": "utterance.start", "utterance": 1, "start_s": 0.5}) == UtteranceStart(1, 0.5)
    measured = {"utterance": 1, "start_s": 0.5, "end_s": 3.5, "confidence": 0.5, "all_emotions": {"sad": 0.5}}
    assert message({"type": "measurement", **measured}) == Measurement(1, 0.5, 3.5, None, 0.5, {"sad": 0.5})
    span = {"utterance": 1, "start_s": 0.5, "end_s": 1.5, "start_sample": 4000, "end_sample": 12_000}
    end = message({"type": "utterance.end", **span, "prediction": PREDICTION, "variant": "stable", "request_id": "x"})
    assert end == UtteranceEnd(**span, prediction=Prediction.of(PREDICTION, "stable", "x"))  # type: ignore[arg-type]
    short = {"code": "audio_too_short", "message": "Too short."}
    failed = message({"type": "error", "utterance": 2, "error": short})
    assert isinstance(failed, UtteranceFailed)
    assert isinstance(failed.error, AudioTooShort)
    with pytest.raises(AudioTooShort):
        message({"type": "error", "utterance": None, "error": short})
    with pytest.raises(UnexpectedAnswer):
        message({"type": "news"})


def test_an_utterance_without_an_answer_is_refused_and_one_without_a_measurement_is_not() -> None:
    span = {"start_s": 0.5, "end_s": 1.5, "start_sample": 4000, "end_sample": 12_000}
    prediction = Prediction.of(PREDICTION)
    failed, answered, other = (
        UtteranceFailed(1, Overloaded("Too many.")),
        UtteranceEnd(1, **span, prediction=prediction),  # type: ignore[arg-type]
        UtteranceFailed(2, NoSpeech("Silence.")),
    )
    refused: set[int] = set()
    assert list(_noting(iter([failed, failed, answered]), refused)) == [failed, failed, answered]
    assert refused == set()
    list(_noting(iter([failed, answered, other]), refused))
    assert refused == {2}


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (1008, "slow_reader", SlowReader),
        (1012, "stopping", Stopping),
        (1012, "version_retired", VersionRetired),
        (1013, "overloaded", Overloaded),
        (1009, "", TooLarge),
        (1012, "", Unreachable),
        (1001, "going away", Unreachable),
        (None, "", Unreachable),
    ],
)
def test_a_stream_that_is_closed_says_why_by_its_close_frame(
    code: int | None, reason: str, error: type[TimbreError]
) -> None:
    told = _broken(ConnectionClosedError(None if code is None else Close(code, reason), None))
    assert type(told) is error


def test_keys_of_tomorrow_are_passed_over_and_missing_ones_told() -> None:
    assert Prediction.of({**PREDICTION, "arousal": 0.5}).emotion == "happy"
    with pytest.raises(UnexpectedAnswer, match="model_version"):
        Prediction.of({key: value for key, value in PREDICTION.items() if key != "model_version"})


@pytest.mark.parametrize("url", ["localhost:3000", "ftp://host", ""])
def test_an_address_of_another_kind_is_told(url: str) -> None:
    with pytest.raises(ValueError, match="http://HOST:3000"):
        Client(url)


class Gateway(grpc.ServerInterceptor):
    """Sees what a gateway does of each call: its path and its metadata."""

    def __init__(self) -> None:
        self.saw: list[tuple[str, dict[str, str | bytes]]] = []

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        self.saw.append((handler_call_details.method, dict(handler_call_details.invocation_metadata)))
        return continuation(handler_call_details)


# What no version can be called is the service's to refuse, in its own words, and is perhaps no metadata.
@pytest.mark.parametrize(
    ("version", "seen"), [("2", "2"), (None, None), ("", None), ("zwei²", None), ("2\n", None), ("2 3", None)]
)
def test_a_gateway_sees_which_version_a_grpc_client_asks_for(version: str | None, seen: str | None) -> None:
    gateway = Gateway()
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[gateway])  # nobody is behind it
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"grpc://127.0.0.1:{port}", api_key="k", retries=Retries(attempts=1)) as client:
            with pytest.raises(UnexpectedAnswer, match="UNIMPLEMENTED"):
                client.predict(b"RIFF", version=version)
            with pytest.raises((UnexpectedAnswer, Unreachable)):  # by who comes first, the answer or the first write
                list(client.listen([], 16_000, version=version))
            with pytest.raises(UnexpectedAnswer, match="UNIMPLEMENTED"):
                client.models()
    finally:
        server.stop(None)
    assert [(path.rpartition("/")[2], told.get("x-model-version")) for path, told in gateway.saw] == [
        ("Predict", seen),
        ("Listen", seen),
        ("Models", None),
    ]
    assert {told["authorization"] for _, told in gateway.saw} == {"Bearer k"}


def test_a_client_loads_no_model_runtime_and_no_server() -> None:
    code = "import serving.client, sys; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    packages = {name.split(".")[0] for name in loaded.stdout.split()}
    assert not packages & {"onnxruntime", "bentoml", "fastapi", "av", "soundfile", "pydantic", "grpc"}
