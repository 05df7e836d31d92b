"""HTTP for people: /predict, /health, /metrics, /docs. Mounted into the BentoML service, which adds /livez and /readyz.

It is an application of our own and not ``@bentoml.api`` methods, because those read whole bodies before a limit can be
asked, fetch URLs that come in file fields, and know no error body but their own.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import Any

import bentoml
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from serving.errors import (
    AudioTooLong,
    AudioTooShort,
    BadSamples,
    EmptyAudio,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    MissingFile,
    NoSpeech,
    NotFound,
    RequestError,
    Starting,
    TooLarge,
    TooManyFiles,
    UnsupportedAudio,
    UnsupportedMediaType,
    UploadTimeout,
)
from serving.metrics import CONTENT_TYPE
from serving.parts import Parts
from serving.schemas import ErrorBody, Health, Prediction
from serving.transports.body import FIELD, read_upload

TRANSPORT = "http"
"""This transport's name in the metrics."""

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PREDICT_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: {"type": "string", "format": "binary", "description": "One audio file."}},
            }
        },
        "audio/*": _BINARY,
        "application/octet-stream": _BINARY,
    },
}

# Pages of BentoML's own that lie before ours and answer only to GET.
_BENTOML_PATHS = frozenset({"/livez", "/readyz", "/healthz", "/schema.json"})

# What a client may still send after it has been refused, before its connection is closed.
_LINGER_BYTES = 64 << 20
_LINGER_S = 5


class HttpTransport:
    """The application and what it answers with; without parts it says that it is starting."""

    def __init__(self) -> None:
        self.parts: Parts | None = None
        self.app = self._build()

    def open(self, parts: Parts) -> None:
        """Start answering."""
        self.parts = parts

    def _ready(self) -> Parts:
        if self.parts is None:
            raise Starting("The service is starting: no model is loaded yet. Try again in a second.")
        return self.parts

    async def predict(self, request: Request) -> Response:
        """Hear one clip: multipart field `file`, or the raw body. WAV, FLAC, OGG, MP3, AIFF, M4A/AAC and WebM."""
        parts = self._ready()
        try:
            upload = await read_upload(request, parts.settings.max_upload_bytes, parts.settings.upload_timeout_s)
        except RequestError as error:
            parts.pipeline.refused(error, TRANSPORT)
            return _Unread(error.body(), error.http_status)
        prediction = await parts.pipeline.predict(upload, TRANSPORT)
        return Response(prediction.model_dump_json(), media_type="application/json")

    async def health(self) -> Health:
        """Whether the service is ready to answer, and with which version."""
        return Health(status="ok", model_version=self._ready().pipeline.session.metadata.version)

    async def metrics(self, _: Request) -> Response:
        """Everything that is measured, in Prometheus' text format."""
        return Response(self._ready().metrics.exposition(), media_type=CONTENT_TYPE)

    async def _head_of_health(self, _: Request) -> Response:
        return JSONResponse((await self.health()).model_dump())

    def _build(self) -> FastAPI:
        app = FastAPI(
            title="Timbre",
            version="1",
            description="Hears a voice and says which emotion is in it.",
            docs_url=None,
            redoc_url=None,
            exception_handlers={
                RequestError: _answer_refusal,
                HTTPException: _answer_framework,
                ClientDisconnect: _answer_nobody,
                Exception: _answer_fault,
            },
        )
        app.add_api_route(
            "/predict",
            self.predict,
            methods=["POST"],
            response_model=Prediction,
            responses=_describe(
                InvalidRequest,
                MissingFile,
                TooManyFiles,
                EmptyAudio,
                AudioTooShort,
                NoSpeech,
                BadSamples,
                UnsupportedMediaType,
                UnsupportedAudio,
                TooLarge,
                AudioTooLong,
                UploadTimeout,
                Starting,
                InternalError,
            ),
            openapi_extra={"requestBody": _PREDICT_BODY},
        )
        app.add_api_route("/health", self.health, methods=["GET"], responses=_describe(Starting))
        app.add_route("/health", self._head_of_health, methods=["HEAD"], include_in_schema=False)
        app.add_route("/metrics", self.metrics, include_in_schema=False)
        app.add_route("/docs", _docs, include_in_schema=False)
        app.mount("/docs/assets", StaticFiles(directory=_swagger_assets()))
        app.add_route("/", _to_docs, include_in_schema=False)
        # Last, for whatever nothing above takes. BentoML's pages behind it (its own /docs.json) are hidden by it, those
        # before it (/livez, /readyz, /schema.json) are not.
        app.router.routes.append(Route("/{path:path}", _Unmatched()))
        return app


class _Unread(JSONResponse):
    """Refuses a request whose body may not have come in whole, and closes its connection.

    Closed at once, the kernel would reset it under a client that is still sending, which then never sees the answer; so
    a little more is taken and thrown away first.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - Starlette's name
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        left = _LINGER_BYTES
        try:
            async with asyncio.timeout(_LINGER_S):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            pass  # whoever still sends has had the time to read
        await send({"type": "http.response.body", "body": b""})


class _Unmatched:
    """Refuses what no route takes, whatever the method: 405 where the path exists, else 404."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        allowed = {"GET"} if request.url.path in _BENTOML_PATHS else _methods_of(request)
        if allowed:
            refusal = _wrong_method(request, ", ".join(sorted(allowed)))
        else:
            error = NotFound(f"There is nothing at {request.url.path}. /docs shows what there is.")
            refusal = JSONResponse(error.body(), error.http_status)
        await refusal(scope, receive, send)


def _methods_of(request: Request) -> set[str]:
    """What the routes of that path take."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    partial = [route for route in routes if route.matches(request.scope)[0] is Match.PARTIAL]
    return {method for route in partial for method in route.methods or ()}


def _wrong_method(request: Request, allowed: str) -> JSONResponse:
    error = MethodNotAllowed(
        f"{request.method} is not allowed on {request.url.path}; {allowed} is.", allowed=allowed.split(", ")
    )
    return JSONResponse(error.body(), error.http_status, {"Allow": allowed})


def _describe(*errors: type[RequestError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses: one per status, its description listing the codes."""
    codes: dict[int, list[str]] = {}
    for error in errors:
        codes.setdefault(error.http_status, []).append(error.code)
    return {
        status: {"model": ErrorBody, "description": ", ".join(f"`{code}`" for code in words)}
        for status, words in codes.items()
    }


async def _answer_refusal(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestError):
        raise error
    return JSONResponse(error.body(), error.http_status)


async def _answer_framework(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself, as the static files do, in the form that everything else has."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return _wrong_method(request, (error.headers or {}).get("Allow", "GET, HEAD"))
    refusal = NotFound(f"There is nothing at {request.url.path}. /docs shows what there is.")
    return JSONResponse(refusal.body(), refusal.http_status)


async def _answer_nobody(_: Request, __: Exception) -> Response:
    """The client left while it was sending; whatever is answered goes nowhere."""
    return Response(status_code=400)


async def _answer_fault(_: Request, __: Exception) -> Response:
    """A fault of ours. The server logs the exception, which goes on its way after this answer."""
    error = InternalError("The service failed on this request; its log says why. Trying again may help.")
    return JSONResponse(error.body(), error.http_status)


async def _to_docs(_: Request) -> Response:
    return RedirectResponse("docs")


async def _docs(_: Request) -> HTMLResponse:
    """Swagger UI from the copy that BentoML ships: no page of ours loads anything from another host."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Timbre API",
        swagger_js_url="docs/assets/swagger-ui-bundle.js",
        swagger_css_url="docs/assets/swagger-ui.css",
        swagger_favicon_url="docs/assets/favicon-light-32x32.png",
    )


def _swagger_assets() -> Path:
    return Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"
