"""How bodies of the Open Inference Protocol are read, before anything is heard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn, cast

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from serving.errors import InvalidRequest, TooLarge
from serving.formats import QUICK_BYTES
from serving.lifecycle import Lifecycle
from serving.proto.inference import inference_pb2 as pb
from serving.schemas import Prediction
from serving.settings import Settings
from serving.transports.fields import unpacker
from serving.transports.oip import grpc, http
from serving.transports.oip.model import SERVER, Infer, Model
from serving.transports.oip.tensors import Tensor, Wanted, answers, check_outputs
from tests.memory import taking


class Pipeline:
    def expect_room(self, _place: object) -> None:
        pass

    def refused(self, *_: object) -> None:
        pass


class Parts:
    """As far as a body is read."""

    pipeline = Pipeline()
    settings = Settings(models=Path("exported"))

    @property
    def uploads(self) -> Parts:
        return self

    def holding(self) -> contextlib.nullcontext[Callable[[int], None]]:
        return contextlib.nullcontext(lambda _: None)


@pytest.mark.parametrize(("spare", "apart"), [(-1000, False), (1, True)])
@pytest.mark.parametrize("wire", [http, grpc])
def test_a_long_body_is_read_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, wire: ModuleType, spare: int, apart: bool
) -> None:
    readers: list[int] = []

    def parse(*_: object) -> NoReturn:
        readers.append(threading.get_ident())
        raise InvalidRequest("read")

    monkeypatch.setattr(wire, "_parse", parse)
    lifecycle = Lifecycle()
    lifecycle.parts = cast("Any", Parts())
    body = bytes(QUICK_BYTES + spare)

    async def ask() -> None:
        if wire is http:
            app = Starlette(routes=http.OipHttpTransport(lifecycle).routes)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                assert (await client.post("/v2/models/timbre/infer", content=body)).status_code == 422
        else:
            message = pb.ModelInferRequest(raw_input_contents=[body]).SerializeToString()
            came = unpacker(pb.ModelInferRequest, 2)(message)
            with pytest.raises(InvalidRequest):
                await grpc.OipGrpcTransport(lifecycle, idle_s=60)._infer(came, None, None)

    asyncio.run(ask())
    assert (readers != [threading.get_ident()]) is apart
    assert len(readers) == 1


def waveform(data: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    body = f'{{"inputs": [{{"name": "waveform", "datatype": "FP32", "shape": [1, 1], "data": {data}}}]}}'
    _, (tensor,) = http._parse(body.encode(), None, lambda _: None)
    assert isinstance(tensor.data, np.ndarray)
    return tensor.data


def test_numbers_are_the_same_however_many_pieces_they_are_converted_in() -> None:
    count = 2 * http._PIECE + 1
    assert np.array_equal(waveform(str(list(range(count)))), np.arange(count, dtype=np.float32))
    assert waveform("[[1, 2], [3, 4]]").tolist() == [[1, 2], [3, 4]]
    assert waveform("[]").size == 0


def test_json_of_more_values_than_memory_may_take_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLarge, match="1500001 values; 1500000 are read"):
        waveform("[" + ",".join(["0"] * (http._MOST_VALUES - 7)) + "]")  # and nine commas and colons around them


@pytest.mark.parametrize("unit", ["[" * 100 + "]" * 100, "[]", '{"a":1}', '{"a":' * 100 + "1" + "}" * 100])
def test_json_of_lists_and_objects_is_refused_before_it_is_read(unit: str) -> None:
    """A byte of theirs becomes a hundred; and commas are the least of them."""
    body = f'{{"inputs": [{{"parameters": {{"a": [{",".join([unit] * (600_000 // len(unit)))}]}}}}]}}'.encode()
    assert body.count(b",") < http._MOST_VALUES

    def refuse(kind: type[http._InferIn | http._IndexIn]) -> None:
        with pytest.raises(TooLarge, match="lists and objects; 4096 are read"):
            http._checked(kind, body, lambda _: None)

    for kind in (http._InferIn, http._IndexIn):
        _, took = taking(partial(refuse, kind))
        assert took < len(body)


N = 100_000
SHAPES = {
    "numbers": [1.5] * N,
    "long numbers": [10**25] * N,
    "words": [f"{n:x}" for n in range(N)],
    "wide words": ["\u4e00"] * N,
    "one wide letter": "x" * (20 * N) + "\U0001f600",
    "keys": {f"{n:x}": f"x{n}" for n in range(N)},
    "lists": [[1.5]] * (http._MOST_NESTED - 8),
    "objects": [{"a": 1.5}] * (http._MOST_NESTED - 8),
    "long lists": [[1.5] * 100] * 1000,
    "long objects": [{f"{n:x}": 1.5 for n in range(100)}] * 1000,
}


REFUSED = {
    "refused numbers": {"x": [1.5] * N},
    "refused words": {"x": [f"{n:x}" for n in range(N)]},
    "refused keys": {"x": {f"{n:x}": 1.5 for n in range(N)}},
}


def asked_and_taken(shape: str, ascii_only: bool) -> tuple[int, int]:
    """Bytes that room was asked for, and those that this process took, to read JSON of a shape, or to refuse it."""
    given = REFUSED.get(shape) or {
        "name": "waveform",
        "datatype": "FP32",
        "shape": [1, 1],
        "parameters": {"a": SHAPES.get(shape)},
    }
    body = json.dumps({"inputs": [given]}, ensure_ascii=ascii_only).encode()
    asked: list[int] = []
    del given

    def read() -> http._InferIn | InvalidRequest:
        try:
            return http._checked(http._InferIn, body, asked.append)
        except InvalidRequest as refused:
            return refused

    kept, took = taking(read)
    assert isinstance(kept, InvalidRequest) is (shape in REFUSED)
    return sum(asked), took


def test_what_json_becomes_is_asked_room_for() -> None:
    """No less than it then takes of a process that has none to spare, whatever the shape; nor too much for numbers."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as alone:
        cases = [(shape, True) for shape in (*SHAPES, *REFUSED)] + [
            (shape, False) for shape in ("wide words", "one wide letter")
        ]
        measured = dict(zip(cases, alone.map(asked_and_taken, *zip(*cases, strict=True)), strict=True))
    too_little = {case: bytes_ for case, bytes_ in measured.items() if bytes_[0] + (1 << 20) < bytes_[1]}
    assert not too_little
    assert all(asked < 3 * took for (shape, _), (asked, took) in measured.items() if shape == "numbers")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "body: Invalid JSON"),
        (b"{", "body: Invalid JSON"),
        (b'{"inputs": "\xff"}', "body: Invalid JSON"),
        (b"[" * 4000, "body: Invalid JSON"),
        (b"[]", "body: "),
        (b"{}", "inputs: Field required"),
        (b'{"inputs": [{"name": 1}]}', "inputs.0.name: Input should be a valid string"),
        (b'{"inputs": [], "outputs": [[]]}', "outputs.0: "),
    ],
)
def test_what_is_no_body_is_told_by_its_place(body: bytes, told: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^The body is no inference request. {told}"):
        http._checked(http._InferIn, body, lambda _: None)


@pytest.mark.parametrize("data", ["[[1, 2], [3]]", "[1, [2]]", '["a"]', "[{}]"])
def test_what_are_no_numbers_is_refused(data: str) -> None:
    with pytest.raises(InvalidRequest, match="takes numbers, flat or row by row"):
        waveform(data)


@pytest.mark.parametrize(
    ("deadline_s", "timeout_us", "waits_s"),
    [(None, 0, None), (0.0, 0, 0.0), (0.0, 2e6, 0.0), (3.0, 2e6, 2.0), (None, 2e6, 2.0)],
)
def test_a_deadline_that_is_over_is_one(
    monkeypatch: pytest.MonkeyPatch, deadline_s: float | None, timeout_us: float, waits_s: float | None
) -> None:
    windows = SimpleNamespace(rate_hz=16_000)
    loaded = SimpleNamespace(session=SimpleNamespace(metadata=SimpleNamespace(windows=windows)))
    monkeypatch.setattr(Model, "_loaded", lambda *_: loaded)
    clip = Tensor("waveform", "FP32", (1, 1), np.zeros(1, np.float32))
    asked = Infer("timbre", "", {"timeout": timeout_us}, [clip], [])
    (ask,) = Model(Lifecycle())._asks(asked, "oip-grpc", deadline_s)
    assert ask.timeout_s == waits_s


@pytest.mark.parametrize(
    ("name", "count", "told"),
    [
        ("probabilities", -1, "whole number of classes; '-1' came"),
        ("probabilities", 1.5, "whole number of classes; '1.5' came"),
        ("probabilities", True, "whole number of classes; 'True' came"),
        ("probabilities", "3", "whole number of classes; '3' came"),
        ("emotion", 1, "Output emotion has no classes to tell by classification; probabilities has"),
        ("confidence", 1, "Output confidence has no classes"),
        ("emotions", 1, "no output 'emotions'"),
    ],
)
def test_classes_that_cannot_be_had_are_refused(name: str, count: Any, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        check_outputs([Wanted(name, {"classification": count})])


def test_the_best_classes_are_no_more_than_there_are() -> None:
    """Of two that are as probable the first; 0 is the tensor itself, which stays beside them as it is."""
    emotions = {"calm": 0.25, "happy": 0.5, "sad": 0.25}
    heard = cast("Prediction", SimpleNamespace(all_emotions=emotions, emotion="happy", confidence=0.5))
    wanted = [Wanted("probabilities", {"classification": count}) for count in (9, 1, 0)]
    check_outputs(wanted)
    every, one, tensor = answers([heard, heard], wanted)
    assert every.shape == (2, 3)
    assert every.data == 2 * [b"0.500000:1:happy", b"0.250000:0:calm", b"0.250000:2:sad"]
    assert (one.datatype, one.shape, one.data) == ("BYTES", (2, 1), 2 * [b"0.500000:1:happy"])
    assert (tensor.datatype, np.asarray(tensor.data).tolist()) == ("FP32", 2 * [[0.25, 0.5, 0.25]])


def test_an_extension_that_is_refused_is_not_claimed() -> None:
    """Of the repository there is the index; who asks for more is told where else to look."""
    endings = {route.path.rsplit("/", 1)[1] for route in http.OipHttpTransport(Lifecycle()).routes}
    assert {"load", "unload", "stats"} <= endings
    assert not {"model_repository", "statistics"} & set(SERVER["extensions"])
