"""HTTP for people: /predict, /health, /docs. Mounted into the BentoML service, which adds /livez, /readyz and /metrics.

It is an application of our own and not ``@bentoml.api`` methods, because those read whole bodies before a limit can be
asked, fetch URLs that come in file fields, and know no error body but their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bentoml
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.staticfiles import StaticFiles

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
)
from serving.pipeline import Pipeline
from serving.schemas import ErrorBody, Health, Prediction
from serving.settings import Settings
from serving.transports.body import FIELD, read_upload

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
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


class HttpTransport:
    """The application and what it answers with; without a pipeline it says that it is starting."""

    def __init__(self) -> None:
        self.pipeline: Pipeline | None = None
        self.settings: Settings | None = None
        self.app = self._build()

    def open(self, pipeline: Pipeline, settings: Settings) -> None:
        """Start answering."""
        self.pipeline, self.settings = pipeline, settings

    def _ready(self) -> tuple[Pipeline, Settings]:
        if self.pipeline is None or self.settings is None:
            raise Starting("The service is starting: no model is loaded yet. Try again in a second.")
        return self.pipeline, self.settings

    async def predict(self, request: Request) -> Response:
        """Hear one clip: multipart field `file`, or the raw body. WAV, FLAC, OGG, MP3, AIFF, M4A/AAC and WebM."""
        pipeline, settings = self._ready()
        upload = await read_upload(request, settings.max_upload_bytes)
        prediction = await pipeline.predict(upload)
        return Response(prediction.model_dump_json(), media_type="application/json")

    async def health(self) -> Health:
        """Whether the service is ready to answer, and with which version."""
        pipeline, _ = self._ready()
        return Health(status="ok", model_version=pipeline.session.metadata.version)

    def _build(self) -> FastAPI:
        app = FastAPI(
            title="Timbre",
            version="1",
            description="Hears a voice and says which emotion is in it.",
            docs_url=None,
            redoc_url=None,
            exception_handlers={
                RequestError: _answer_refusal,
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
                Starting,
                InternalError,
            ),
            openapi_extra={"requestBody": _PREDICT_BODY},
        )
        app.add_api_route("/health", self.health, methods=["GET"], responses=_describe(Starting))
        app.add_route("/docs", _docs, include_in_schema=False)
        app.mount("/docs/assets", StaticFiles(directory=_swagger_assets()))
        app.add_route("/", _to_docs, include_in_schema=False)
        # Last, for whatever nothing above takes; it also hides pages that BentoML would add behind it.
        app.add_route("/{path:path}", _refuse_unmatched, methods=_METHODS, include_in_schema=False)
        return app


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


async def _answer_nobody(_: Request, __: Exception) -> Response:
    """The client left while it was sending; whatever is answered goes nowhere."""
    return Response(status_code=400)


async def _answer_fault(_: Request, __: Exception) -> Response:
    """A fault of ours. The server logs the exception, which goes on its way after this answer."""
    error = InternalError("The service failed on this request; its log says why. Trying again may help.")
    return JSONResponse(error.body(), error.http_status)


async def _refuse_unmatched(request: Request) -> Response:
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    allowed = sorted(
        {
            method
            for route in routes
            if route.matches(request.scope)[0] is Match.PARTIAL
            for method in route.methods or ()
        }
    )
    if allowed:
        refusal: RequestError = MethodNotAllowed(
            f"{request.method} is not allowed on {request.url.path}; {' and '.join(allowed)} is.", allowed=allowed
        )
        return JSONResponse(refusal.body(), refusal.http_status, {"Allow": ", ".join(allowed)})
    refusal = NotFound(f"There is nothing at {request.url.path}. /docs shows what there is.")
    return JSONResponse(refusal.body(), refusal.http_status)


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
