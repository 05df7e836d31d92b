"""What /docs and /openapi.json say of /predict: its body, parameters and refusals; and the page that shows it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import bentoml
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse

from serving.errors import (
    AudioTooLong,
    AudioTooShort,
    BadSamples,
    DeadlineExceeded,
    EmptyAudio,
    Forbidden,
    InternalError,
    InvalidRequest,
    MissingFile,
    NoSpeech,
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
from serving.schemas import ErrorBody
from serving.transports.body import FIELD
from serving.transports.query import KEY, MIN_CONFIDENCE, VERSION

_BINARY = {"schema": {"type": "string", "format": "binary"}}
PREDICT_BODY = {
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


def _parameter(name: str, place: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "description": description, "schema": {"type": "string"} | schema}


PREDICT_PARAMETERS = [
    _parameter(
        MIN_CONFIDENCE,
        "query",
        "Below this probability no emotion is named.",
        type="number",
        minimum=0,
        maximum=1,
        default=0,
    ),
    _parameter(VERSION, "query", "The version that shall answer."),
    _parameter("X-Model-Version", "header", f"The same as `{VERSION}`; both may come if they agree."),
    _parameter(KEY, "query", "Any user or session id: it always gets the same variant."),
    _parameter("X-Timbre-Key", "header", f"The same as `{KEY}`; both may come if they agree."),
]
_AT_THE_DOOR: tuple[type[RequestError], ...] = (Unauthenticated, Forbidden, RateLimited)
REFUSALS_OF_PREDICT = (
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


def describe(*errors: type[RequestError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses: one per status, its description listing the codes, those of API keys among them."""
    codes: dict[int, list[str]] = {}
    for error in (*_AT_THE_DOOR, *errors):
        codes.setdefault(error.http_status, []).append(error.code)
    return {
        status: {"model": ErrorBody, "description": ", ".join(f"`{code}`" for code in words)}
        for status, words in codes.items()
    }


async def docs(_: Request) -> HTMLResponse:
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
    """What the page may load: what comes from this host, and the one script that stands in it."""
    (script,) = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def swagger_assets() -> Path:
    """The folder of that copy."""
    return Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"


def tell_of_others(app: FastAPI) -> None:
    """Let /openapi.json have the paths too that are no routes of FastAPI's: probes, metrics, other protocols."""
    of_routes = app.openapi

    def everything() -> dict[str, Any]:
        document = of_routes()
        document["paths"] = _OTHERS | document["paths"]
        return document

    app.openapi = everything  # type: ignore[method-assign]  # FastAPI's own way of changing the document


def _operation(summary: str, *errors: int, body: bool = False, kind: str = "application/json") -> dict[str, Any]:
    """One of them; its refusals are JSON with an ``error``, whatever stands in it."""
    content: dict[str, Any] = {kind: {"schema": {"type": ["object", "array"]} if kind == "application/json" else {}}}
    refused = {"application/json": {"schema": {"type": "object", "required": ["error"]}}}
    answers: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    for status in sorted({*(error.http_status for error in _AT_THE_DOOR), *errors}):
        answers[str(status)] = {"description": "Refused; the code says why.", "content": refused}
    operation: dict[str, Any] = {"summary": summary, "responses": answers}
    if body:
        operation["requestBody"] = {"content": {"application/json": {"schema": {"type": "object"}}}}
    return operation


_NAMED = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_VERSIONED = {**_NAMED, "name": "version"}
_OF_A_BODY = (408, 413, 415, 422)


def _of_model(path: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    """The Open Inference Protocol's paths below a model."""
    return {
        path: {"parameters": parameters, "get": _operation("What its tensors are.", 404, 503)},
        f"{path}/config": {"parameters": parameters, "get": _operation("The same for Triton's tools.", 404, 503)},
        f"{path}/ready": {"parameters": parameters, "get": _operation("Whether it answers.", 404, 503)},
        f"{path}/infer": {
            "parameters": parameters,
            "post": _operation("Hear clips.", *_OF_A_BODY, 404, 500, 503, 504, body=True),
        },
    }


_OTHERS: dict[str, Any] = {
    "/livez": {"get": _operation("Whether the process lives.")},
    "/readyz": {"get": _operation("Whether every routed version answers.", 503)},
    "/metrics": {"get": _operation("For Prometheus.", 503, kind="text/plain")},
    "/v2": {"get": _operation("The Open Inference Protocol: the server.")},
    "/v2/health/live": {"get": _operation("Whether the process lives.")},
    "/v2/health/ready": {"get": _operation("Whether every routed version answers.", 503)},
    "/v2/repository/index": {"post": _operation("The loaded versions.", *_OF_A_BODY, 503, body=True)},
    **_of_model("/v2/models/{name}", _NAMED),
    **_of_model("/v2/models/{name}/versions/{version}", _NAMED, _VERSIONED),
}
