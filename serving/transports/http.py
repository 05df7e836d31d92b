"""HTTP for people and probes: /predict, /models, /feedback, /experiments, /health, /livez, /readyz, /metrics, /docs.

It is an application of our own and not ``@bentoml.api`` methods, because those read whole bodies before a limit can be
asked, fetch URLs that come in file fields, and know no error body but their own.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import bentoml
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from serving.errors import (
    AudioTooLong,
    AudioTooShort,
    BadSamples,
    DeadlineExceeded,
    EmptyAudio,
    Forbidden,
    InternalError,
    InvalidFeedback,
    InvalidRequest,
    MethodNotAllowed,
    MissingFile,
    NoSpeech,
    NotFound,
    Overloaded,
    RateLimited,
    RequestError,
    Starting,
    Stopping,
    TooLarge,
    TooManyFiles,
    Unauthenticated,
    UnknownVersion,
    UnsupportedAudio,
    UnsupportedMediaType,
    UploadTimeout,
)
from serving.experiments import experiments
from serving.lifecycle import Lifecycle
from serving.metrics import CONTENT_TYPE
from serving.pipeline import Ask
from serving.schemas import ErrorBody, FeedbackIn, FeedbackOut, Health, Models, Prediction
from serving.tracing import PARENT
from serving.transports.admission import Admission
from serving.transports.asgi import Unread, unless_gone
from serving.transports.body import FIELD, read_upload

Small = TypeVar("Small", bound=BaseModel)

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

_PREDICT_PARAMETERS = [
    {
        "name": "min_confidence",
        "in": "query",
        "description": "Below this probability no emotion is named.",
        "schema": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
    },
    {
        "name": "X-Model-Version",
        "in": "header",
        "description": "The version that shall answer.",
        "schema": {"type": "string"},
    },
    {
        "name": "X-Timbre-Key",
        "in": "header",
        "description": "Any user or session id: it always gets the same variant.",
        "schema": {"type": "string"},
    },
]
_AT_THE_DOOR = (Unauthenticated, Forbidden, RateLimited)
_REFUSALS_OF_PREDICT = (
    *_AT_THE_DOOR,
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
    UnknownVersion,
    Overloaded,
    DeadlineExceeded,
    Starting,
    Stopping,
    InternalError,
)

VERSION_HEADER, VARIANT_HEADER = "X-Model-Version", "X-Timbre-Variant"
KEY_HEADER, ID_HEADER = "X-Timbre-Key", "X-Request-ID"

CONFIDENCE_PARAMETER = "min_confidence"

_SMALL_BYTES = 4096


class HttpTransport:
    """The application over a service that may be starting, ready or stopping.

    Args:
        others: paths of other protocols on the same port.
    """

    def __init__(self, lifecycle: Lifecycle, others: Sequence[BaseRoute] = ()) -> None:
        self._lifecycle = lifecycle
        self.app = self._build(others)

    async def predict(self, request: Request) -> Response:
        """Hear one clip: multipart field `file`, or the raw body. WAV, FLAC, OGG, MP3, AIFF, M4A/AAC and WebM.

        With `?min_confidence=0.6` the emotion is null where the model is less sure. Headers: `X-Model-Version` asks for
        a version; `X-Timbre-Key` (any user or session id) for always the same variant. The answer's `X-Model-Version`
        and `X-Timbre-Variant` say who answered, and its `X-Request-ID` is what `/feedback` takes.
        """
        parts = self._lifecycle.get()
        pipeline, settings = parts.pipeline, parts.settings
        try:
            if pipeline.full:
                raise pipeline.overloaded()
            min_confidence = _share(request, CONFIDENCE_PARAMETER)
            upload = await read_upload(request, settings.max_upload_bytes, settings.upload_timeout_s)
        except RequestError as error:
            pipeline.refused(error, TRANSPORT)
            return _refusal(error) if getattr(request.state, "body_read", False) else _unread(error)
        headers = request.headers
        ask = Ask(
            upload,
            TRANSPORT,
            headers.get(VERSION_HEADER),
            headers.get(KEY_HEADER) or None,
            min_confidence,
            traceparent=headers.get(PARENT),
        )
        answer = await unless_gone(request, pipeline.predict(ask))
        return Response(
            answer.prediction.model_dump_json(),
            media_type="application/json",
            headers={
                VERSION_HEADER: answer.prediction.model_version,
                VARIANT_HEADER: answer.variant,
                ID_HEADER: answer.request_id,
            },
        )

    async def health(self) -> Health:
        """Whether the service answers, and with which version."""
        routes = self._lifecycle.get().registry.fleet.routes
        return Health(status="ok", model_version=routes.default_version)

    async def models(self) -> Models:
        """The loaded versions, how traffic goes, and what each exported file says of itself."""
        return self._lifecycle.get().registry.told()

    async def feedback(self, request: Request) -> FeedbackOut:
        """Tell the true emotion of an answered request; each id counts once."""
        parts = self._lifecycle.get()
        told = await _read_small(request, FeedbackIn)
        fleet = parts.registry.fleet
        labels = dict.fromkeys(label for loaded in fleet.versions.values() for label in loaded.session.metadata.labels)
        verdict = parts.feedback.take(told.request_id, told.emotion, tuple(labels))
        return FeedbackOut(
            counted=verdict.counted,
            agreed=verdict.agreed,
            heard=verdict.heard.emotion,
            variant=verdict.heard.variant,
            version=verdict.heard.version,
        )

    async def experiments(self) -> dict[str, Any]:
        """Per variant: requests, confidence, emotions, latency, agreement with feedback; and whether two differ."""
        parts = self._lifecycle.get()
        return await asyncio.to_thread(experiments, parts.metrics, parts.registry.fleet.routes)

    async def _metrics(self, _: Request) -> Response:
        return Response(self._lifecycle.get().metrics.exposition(), media_type=CONTENT_TYPE)

    async def _head_of_health(self, _: Request) -> Response:
        return JSONResponse((await self.health()).model_dump())

    async def _livez(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, _: Request) -> Response:
        error = await self._lifecycle.why_not_ready()
        return JSONResponse({"status": "ok"}) if error is None else _refusal(error)

    def _build(self, others: Sequence[BaseRoute]) -> FastAPI:
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
        app.add_middleware(Admission, lifecycle=self._lifecycle)
        app.add_api_route(
            "/predict",
            self.predict,
            methods=["POST"],
            response_model=Prediction,
            responses=_describe(*_REFUSALS_OF_PREDICT),
            openapi_extra={"requestBody": _PREDICT_BODY, "parameters": _PREDICT_PARAMETERS},
        )
        app.add_api_route("/models", self.models, methods=["GET"], responses=_describe(*_AT_THE_DOOR, Starting))
        app.add_api_route(
            "/feedback",
            self.feedback,
            methods=["POST"],
            responses=_describe(*_AT_THE_DOOR, InvalidRequest, InvalidFeedback, TooLarge, Starting),
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": FeedbackIn.model_json_schema()}},
                }
            },
        )
        app.add_api_route(
            "/experiments", self.experiments, methods=["GET"], responses=_describe(*_AT_THE_DOOR, Starting)
        )
        app.add_api_route("/health", self.health, methods=["GET"], responses=_describe(*_AT_THE_DOOR, Starting))
        app.add_route("/health", self._head_of_health, methods=["HEAD"], include_in_schema=False)
        app.add_route("/livez", self._livez, include_in_schema=False)
        app.add_route("/readyz", self._readyz, include_in_schema=False)
        app.add_route("/metrics", self._metrics, include_in_schema=False)
        app.add_route("/docs", _docs, include_in_schema=False)
        app.mount("/docs/assets", StaticFiles(directory=_swagger_assets()))
        app.add_route("/", _to_docs, include_in_schema=False)
        app.router.routes.extend(others)
        # Last, for whatever nothing above takes.
        app.router.routes.append(Route("/{path:path}", _Unmatched()))
        return app


def _share(request: Request, name: str) -> float:
    """A query parameter from 0 to 1, 0 where it is not given.

    Raises:
        InvalidRequest: it is not such a number.
    """
    given = request.query_params.get(name, "0")
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InvalidRequest(f"{name} must be a number from 0 to 1; got {given[:40]!r}.")
    return value


async def _read_small(request: Request, schema: type[Small]) -> Small:
    """A JSON body of a few hundred bytes.

    Raises:
        TooLarge: it is more than that.
        InvalidRequest: it is not JSON, or not of this schema.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _SMALL_BYTES:
            raise TooLarge(f"The body is over {_SMALL_BYTES} bytes.", max_bytes=_SMALL_BYTES)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors())
        wanted = ", ".join(schema.model_fields)
        raise InvalidRequest(f"The body must be a JSON object of {wanted}. {faults}.") from error


class _Unmatched:
    """Refuses what no route takes, whatever the method: 405 where the path exists, else 404."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if allowed := _methods_of(request):
            refusal = _wrong_method(request, ", ".join(sorted(allowed)))
        else:
            refusal = _refusal(NotFound(f"There is nothing at {request.url.path}. /docs shows what there is."))
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


def _refusal(error: RequestError) -> JSONResponse:
    return JSONResponse(error.body(), error.http_status, _headers_of(error))


def _unread(error: RequestError) -> Unread:
    return Unread(error.body(), error.http_status, _headers_of(error))


def _headers_of(error: RequestError) -> dict[str, str]:
    wait_s = error.details.get("retry_after_s")
    return {} if wait_s is None else {"Retry-After": str(wait_s)}


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
    return _refusal(error)


async def _answer_framework(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself, as the static files do, in the form that everything else has."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return _wrong_method(request, (error.headers or {}).get("Allow", "GET, HEAD"))
    return _refusal(NotFound(f"There is nothing at {request.url.path}. /docs shows what there is."))


async def _answer_nobody(_: Request, __: Exception) -> Response:
    """The client left while it was sending; whatever is answered goes nowhere."""
    return Response(status_code=400)


async def _answer_fault(_: Request, __: Exception) -> Response:
    """A fault of ours. The server logs the exception, which goes on its way after this answer."""
    return _refusal(InternalError("The service failed on this request; its log says why. Trying again may help."))


async def _to_docs(_: Request) -> Response:
    return RedirectResponse("docs")


async def _docs(_: Request) -> HTMLResponse:
    """Swagger UI from the copy that BentoML ships: no page of ours loads anything from another host."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Timbre API",
        swagger_js_url="docs/assets/swagger-ui-bundle.js",
        swagger_css_url="docs/assets/swagger-ui.css",
        swagger_favicon_url="docs/assets/favicon-light-32x32.png",
    )
    page.headers["Content-Security-Policy"] = _policy(bytes(page.body))
    return page


def _policy(page: bytes) -> str:
    """What Swagger UI's page may load: what comes from this host, and the one script that stands in it."""
    (script,) = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _swagger_assets() -> Path:
    return Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"
