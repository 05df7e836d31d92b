"""How bodies of the Open Inference Protocol are read, before anything is heard."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
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
from serving.settings import Settings
from serving.transports.oip import grpc, http
from serving.transports.oip.model import SERVER, Infer, Model
from serving.transports.oip.tensors import Tensor


class Pipeline:
    def has_room(self, _place: object) -> bool:
        return True

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
            with pytest.raises(InvalidRequest):
                await grpc.OipGrpcTransport(lifecycle)._infer(
                    pb.ModelInferRequest(raw_input_contents=[body]), None, None
                )

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
        waveform("[" + ",".join(["0"] * (http._MOST_VALUES - 3)) + "]")  # and four commas around them


def test_what_json_becomes_is_asked_room_for() -> None:
    asked: list[int] = []
    http._parse(
        b'{"inputs": [{"name": "waveform", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}',
        None,
        asked.append,
    )
    assert asked == [7 * http._VALUE_BYTES]


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


def test_the_repository_extension_is_claimed_where_models_can_be_loaded() -> None:
    paths = [route.path for route in http.OipHttpTransport(Lifecycle()).routes]
    assert ("model_repository" in SERVER["extensions"]) is any(path.endswith("/load") for path in paths)
