"""What /docs and /openapi.json say of /predict: its body, parameters and refusals; and the page that shows it."""

from __future__ import annotations

import base64
import hashlib
import re
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
