"""The Open Inference Protocol over HTTP: JSON, and tensors in binary behind it.

In JSON an encoded file is base64, because JSON holds no bytes. Errors are ``{"error": "code: message"}``: the protocol
wants a string.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.audio import Samples
from serving.errors import InvalidRequest, NotFound, RequestError, TooLarge, UnknownVersion
from serving.lifecycle import Lifecycle
from serving.parts import Parts
from serving.pipeline import MOST_CLIPS
from serving.room import Take
from serving.tracing import PARENT
from serving.transports.asgi import Unread, place_of, unless_gone
from serving.transports.body import read_small, read_whole, unpacked
from serving.transports.faults import fault
from serving.transports.oip.model import LOADING, SERVER, STATISTICS, Infer, Inferred, Model, beside
from serving.transports.oip.tensors import AUDIO, Tensor, Wanted, check, from_raw, to_raw

TRANSPORT = "oip-http"
"""This transport's name in the metrics."""
INFER = "/v2/models/[^/]+(/versions/[^/]+)?/infer"
"""Pattern of the paths that take clips."""

_JSON_LENGTH = "Inference-Header-Content-Length"
_BINARY_SIZE, _BINARY, _ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
_PIECE = 1 << 15  # numbers that are converted at a time: between two pieces the event loop has its turn
# What becomes of JSON has little to do with how it is written: `[` is one byte of 300. So the signs of it are counted
# before it is read. So many numbers are a minute and a half at 16 kHz; rows have a bracket each.
_MOST_VALUES, _MOST_NESTED = 1_500_000, 4096
_VALUE_BYTES, _QUOTE_BYTES, _NESTED_BYTES = 110, 30, 400  # `,` or `:`, `"`, `[` or `{`: together no less than it takes
_WIDE = 7  # text with a letter beyond ASCII: four bytes for every letter of it, and twice as many as it has on the way

Body = TypeVar("Body", bound=BaseModel)
Endpoint = Callable[[Request], Awaitable[Response]]


class _InputIn(BaseModel):
    name: str
    datatype: str
    shape: list[int] = Field(max_length=8)
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _OutputIn(BaseModel):
    name: str
    parameters: dict[str, Any] = {}


class _IndexIn(BaseModel):
    """request for the index"""

    ready: bool = False


class _InferIn(BaseModel):
    """inference request"""

    id: str = ""
    parameters: dict[str, Any] = {}
    inputs: list[_InputIn] = Field(max_length=8)
    outputs: list[_OutputIn] = Field([], max_length=8)


class OipHttpTransport:
    """The protocol's paths, for the HTTP application."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle, self._model = lifecycle, Model(lifecycle)

    @property
    def routes(self) -> list[Route]:
        """What is mounted."""
        routes = [
            Route("/v2", _told(self._server)),
            Route("/v2/", _told(self._server)),
            Route("/v2/health/live", _told(self._live)),
            Route("/v2/health/ready", _told(self._ready)),
            Route("/v2/repository/index", _told(self._index), methods=["POST"]),
            Route("/v2/repository/models/{name}/load", _elsewhere(LOADING), methods=["POST"]),
            Route("/v2/repository/models/{name}/unload", _elsewhere(LOADING), methods=["POST"]),
            Route("/v2/models/stats", _elsewhere(STATISTICS)),  # before a model of that name
        ]
        for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            routes += [
                Route(model, _told(self._metadata)),
                Route(f"{model}/config", _told(self._config)),
                Route(f"{model}/stats", _elsewhere(STATISTICS)),
                Route(f"{model}/ready", _told(self._model_ready)),
                Route(f"{model}/infer", _told(self._infer), methods=["POST"]),
            ]
        return routes

    async def _server(self, _: Request) -> Response:
        return JSONResponse(SERVER)

    async def _live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, _: Request) -> Response:
        ready = await self._model.server_ready()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def _model_ready(self, request: Request) -> Response:
        name, version = _who(request)
        try:
            ready = await self._model.ready(name, version)
        except UnknownVersion:  # not which are loaded: nobody is asked for a key here
            raise UnknownVersion(f"Version {version[:40]!r} is not loaded. GET /models lists those that are.") from None
        return JSONResponse({"name": name, "ready": ready}, 200 if ready else 503)

    async def _metadata(self, request: Request) -> Response:
        return JSONResponse(self._model.metadata(*_who(request)))

    async def _config(self, request: Request) -> Response:
        return JSONResponse(self._model.config(*_who(request)))

    async def _index(self, request: Request) -> Response:
        parts = self._lifecycle.get()
        with parts.uploads.holding() as take:
            body = await read_small(request, parts.settings.upload_timeout_s, take)
            asked = _checked(_IndexIn, body or b"{}", take)
            return JSONResponse(await self._model.index(asked.ready))

    async def _infer(self, request: Request) -> Response:
        parts = self._lifecycle.get()
        with parts.uploads.holding() as take:
            try:
                asked, tensors = await self._asked(request, parts, take)
            except RequestError as error:
                parts.pipeline.refused(error, TRANSPORT)
                raise
            except ClientDisconnect:
                parts.pipeline.left(TRANSPORT)
                raise
            name, version = _who(request)
            wanted = [Wanted(output.name, output.parameters) for output in asked.outputs]
            parent, place = request.headers.get(PARENT), place_of(request.scope)
            infer = Infer(name, version, asked.parameters, tensors, wanted, parent, place, take)
            return _answer(name, asked, await unless_gone(request, self._model.infer(infer, TRANSPORT)))

    async def _asked(self, request: Request, parts: Parts, take: Take) -> tuple[_InferIn, list[Tensor]]:
        """What the body asks; permits are looked at before it is read."""
        parts.pipeline.expect_room(place_of(request.scope))
        settings = parts.settings
        packed = await read_whole(request, settings.max_upload_bytes, settings.upload_timeout_s, take)
        body = await unpacked(packed, request.headers.get("Content-Encoding", ""), settings.max_upload_bytes, take)
        return await beside(len(body), _parse, body, request.headers.get(_JSON_LENGTH), take)


def _told(endpoint: Endpoint) -> Endpoint:
    """An endpoint whose refusals are told as the protocol wants, and its faults too, which the log explains."""

    async def told(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RequestError as error:
            return _refused(request, error)
        except ClientDisconnect:
            raise  # nobody is there to be told
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told that it is ours
            return _refused(request, fault(error, request.headers.get(PARENT)))

    return told


def _elsewhere(why: str) -> Endpoint:
    """An endpoint of an extension that is not here, for those who take it for granted."""

    async def refuse(_: Request) -> Response:
        raise NotFound(why)

    return _told(refuse)


def _refused(request: Request, error: RequestError) -> Response:
    unread = request.method == "POST" and not getattr(request.state, "body_read", False)
    response = Unread if unread else JSONResponse
    return response({"error": error.line}, error.http_status, error.headers)


def _who(request: Request) -> tuple[str, str]:
    return request.path_params["name"], request.path_params.get("version", "")


def _parse(body: bytes, json_length: str | None, take: Take) -> tuple[_InferIn, list[Tensor]]:
    """A request's JSON and its tensors, wherever their data stand.

    Args:
        json_length: bytes of JSON before the binary data; all of it where None.

    Raises:
        TooLarge, Overloaded: as of :func:`_checked`.
        InvalidRequest: it is not such a body.
    """
    end = len(body)
    if json_length is not None:
        if not json_length.isascii() or not json_length.isdecimal() or int(json_length) > len(body):
            raise InvalidRequest(f"{_JSON_LENGTH} is {json_length[:40]!r} and the body has {len(body)} bytes.")
        end = int(json_length)
    asked = _checked(_InferIn, body[:end], take)
    tensors = []
    for given in asked.inputs:
        check(given.name, given.datatype, given.shape, MOST_CLIPS)
        size = given.parameters.get(_BINARY_SIZE)
        data: Sequence[bytes] | Samples
        if size is None:
            data = _from_json(given)
        else:
            if not isinstance(size, int) or not 0 <= size <= len(body) - end:
                raise InvalidRequest(
                    f"Input {given.name} announces {str(size)[:40]} bytes; {len(body) - end} are there."
                )
            data = from_raw(body[end : end + size], given.datatype, given.name)
            end += size
        tensors.append(Tensor(given.name, given.datatype, tuple(given.shape), data, given.parameters))
    return asked, tensors


def _checked(kind: type[Body], body: bytes, take: Take) -> Body:
    """What the JSON says.

    Raises:
        TooLarge: it has too many values, or lists and objects.
        Overloaded: by ``take``, which is told of what they become.
        InvalidRequest: it is not such a request.
    """
    values, nested = (sum(map(body.count, signs)) for signs in ((b",", b":"), (b"[", b"{")))
    for came, most, what in ((values, _MOST_VALUES, "values"), (nested, _MOST_NESTED, "lists and objects")):
        if came > most:
            raise TooLarge(
                f"The JSON has {came} {what}; {most} are read. Send them as binary data, or a file as BYTES.",
                max_values=most,
            )
    wide = not body.isascii() or b"\\u" in body
    take(values * _VALUE_BYTES + body.count(b'"') * _QUOTE_BYTES + nested * _NESTED_BYTES)
    take(len(body) * (_WIDE if wide else 1))
    try:
        # Not `model_validate_json`, whose every error has a copy of what was wrong, however long, as objects of Python.
        return kind.model_validate(from_json(body))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in found)
    except ValueError as error:
        faults = f"body: Invalid JSON: {error}"
    raise InvalidRequest(f"The body is no {kind.__doc__}. {faults[:400]}.")


def _from_json(given: _InputIn) -> list[bytes] | Samples:
    if given.data is None:
        raise InvalidRequest(f"Input {given.name} has neither `data` nor `{_BINARY_SIZE}`.")
    try:
        if given.name == AUDIO:
            return [base64.b64decode(element, validate=True) for element in given.data]
        pieces = [given.data[start : start + _PIECE] for start in range(0, len(given.data), _PIECE)]
        return np.concatenate([np.array(piece, dtype=np.float32) for piece in pieces or [[]]])
    except (binascii.Error, OverflowError, TypeError, ValueError) as error:
        kind = "base64 of encoded files" if given.name == AUDIO else "numbers, flat or row by row"
        raise InvalidRequest(f"Input {given.name} takes {kind} as its data in JSON ({error}).") from error


def _answer(name: str, asked: _InferIn, told: Inferred) -> Response:
    everything = asked.parameters.get(_ALL_BINARY, False)
    binary = {output.name: output.parameters.get(_BINARY, everything) for output in asked.outputs}
    outputs, chunks = [], []
    for tensor in told.outputs:
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        about = dict(tensor.parameters)
        if binary.get(tensor.name, everything):
            chunks.append(to_raw(tensor))
            about[_BINARY_SIZE] = len(chunks[-1])
        else:
            output["data"] = _to_json(tensor)
        if about:
            output["parameters"] = about
        outputs.append(output)
    parameters = {"variant": told.variant}
    said = {"model_name": name, "model_version": told.version, "parameters": parameters, "outputs": outputs}
    head = JSONResponse({"id": asked.id} | said if asked.id else said)
    if not chunks:
        return head
    body = b"".join([head.body, *chunks])
    return Response(body, 200, {_JSON_LENGTH: str(len(head.body))}, "application/octet-stream")


def _to_json(tensor: Tensor) -> list[Any]:
    if isinstance(tensor.data, np.ndarray):
        values: list[Any] = tensor.data.ravel().tolist()
        return values
    return [element.decode() for element in tensor.data]
