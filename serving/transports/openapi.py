"""What /docs and /openapi.json say of /predict: its body, parameters and refusals; and the page that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bentoml
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse

from serving.errors import (
    AudioTooLong,
    AudioTooShort,
    BadSamples,
    DeadlineExceeded,
    EmptyAudio,
    InternalError,
    InvalidRequest,
    MissingFile,
    NoSpeech,
    Overloaded,
    RequestError,
    Starting,
    Stopping,
    TooLarge,
    TooManyFiles,
    UnknownVersion,
    UnsupportedAudio,
    UnsupportedMediaType,
    UploadTimeout,
)
from serving.schemas import ErrorBody
from serving.transports.body import FIELD

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

PREDICT_PARAMETERS = [
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
    """OpenAPI responses: one per status, its description listing the codes."""
    codes: dict[int, list[str]] = {}
    for error in errors:
        codes.setdefault(error.http_status, []).append(error.code)
    return {
        status: {"model": ErrorBody, "description": ", ".join(f"`{code}`" for code in words)}
        for status, words in codes.items()
    }


async def docs(_: Request) -> HTMLResponse:
    """Swagger UI from the copy that BentoML ships: no page of ours loads anything from another host."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Timbre API",
        swagger_js_url="docs/assets/swagger-ui-bundle.js",
        swagger_css_url="docs/assets/swagger-ui.css",
        swagger_favicon_url="docs/assets/favicon-light-32x32.png",
    )


def swagger_assets() -> Path:
    """The folder of that copy."""
    return Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"
