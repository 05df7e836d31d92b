"""What /openapi.json says of each path: what it is for, what it takes and how it refuses."""

from __future__ import annotations

from typing import Any

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
from serving.schemas import ErrorBody, FeedbackIn
from serving.transports.body import FIELD
from serving.transports.query import KEY, MIN_CONFIDENCE, VERSION

TO_PREDICT, TO_MODELS, TO_HEALTH, TO_OIP = "Predict", "Models", "Health", "Open Inference Protocol"
"""The groups of paths."""

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_CLIP = {
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


_PARAMETERS = [
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
    _parameter("X-Timbre-Key", "header", f"The same as `{KEY}`, in UTF-8; both may come if they agree."),
]
_AT_THE_DOOR: tuple[type[RequestError], ...] = (Unauthenticated, Forbidden, RateLimited)
_REFUSALS_OF_PREDICT = (
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


def _refusals(*errors: type[RequestError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses: one per status, its description listing the codes, those of API keys among them."""
    codes: dict[int, list[str]] = {}
    for error in (*_AT_THE_DOOR, *errors):
        codes.setdefault(error.http_status, []).append(error.code)
    return {
        status: {"model": ErrorBody, "description": ", ".join(f"`{code}`" for code in words)}
        for status, words in codes.items()
    }


ROUTES: dict[str, dict[str, Any]] = {
    "/predict": {
        "tags": [TO_PREDICT],
        "summary": "Hear a clip and say which emotion is in the voice.",
        "responses": _refusals(*_REFUSALS_OF_PREDICT),
        "openapi_extra": {"requestBody": _CLIP, "parameters": _PARAMETERS},
    },
    "/feedback": {
        "tags": [TO_PREDICT],
        "summary": "Tell what an answered clip really was.",
        "responses": _refusals(InvalidRequest, InvalidFeedback, TooLarge, UploadTimeout, Starting),
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": FeedbackIn.model_json_schema()}},
            }
        },
    },
    "/models": {
        "tags": [TO_MODELS],
        "summary": "Which versions are loaded, and how traffic goes.",
        "responses": _refusals(Starting),
    },
    "/experiments": {
        "tags": [TO_MODELS],
        "summary": "How the variants compare.",
        "responses": _refusals(Starting),
    },
    "/health": {
        "tags": [TO_HEALTH],
        "summary": "Whether the service answers, and with which version.",
        "responses": _refusals(Starting),
    },
}
"""By path that is a route of FastAPI's: what its ``add_api_route`` is told beside the endpoint."""


def _operation(
    tag: str, summary: str, *errors: int, body: bool = False, kind: str = "application/json"
) -> dict[str, Any]:
    """What is said of a path that is no route of FastAPI's; refusals are JSON with an ``error``, whatever stands in it.

    Args:
        errors: statuses of its refusals, beside those of API keys.
    """
    content: dict[str, Any] = {kind: {"schema": {"type": ["object", "array"]} if kind == "application/json" else {}}}
    refused = {"application/json": {"schema": {"type": "object", "required": ["error"]}}}
    answers: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    for status in sorted({*(error.http_status for error in _AT_THE_DOOR), *errors}):
        answers[str(status)] = {"description": "Refused; the code says why.", "content": refused}
    operation: dict[str, Any] = {"tags": [tag], "summary": summary, "responses": answers}
    if body:
        operation["requestBody"] = {"content": {"application/json": {"schema": {"type": "object"}}}}
    return operation


_NAMED = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_VERSIONED = {**_NAMED, "name": "version"}
_OF_A_BODY = (408, 413, 415, 422)


def _of_model(path: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    """The Open Inference Protocol's paths below a model."""
    return {
        path: {
            "parameters": parameters,
            "get": _operation(TO_OIP, "What tensors the model takes and gives.", 404, 503),
        },
        f"{path}/config": {
            "parameters": parameters,
            "get": _operation(TO_OIP, "Its configuration, for Triton's tools.", 404, 503),
        },
        f"{path}/ready": {"parameters": parameters, "get": _operation(TO_OIP, "Whether the model answers.", 404, 503)},
        f"{path}/infer": {
            "parameters": parameters,
            "post": _operation(TO_OIP, "Hear clips, as tensors.", *_OF_A_BODY, 404, 500, 503, 504, body=True),
        },
    }


OTHERS: dict[str, Any] = {
    "/livez": {"get": _operation(TO_HEALTH, "Whether the process lives.")},
    "/readyz": {"get": _operation(TO_HEALTH, "Whether every routed version answers.", 503)},
    "/metrics": {"get": _operation(TO_HEALTH, "What is counted, for Prometheus.", 503, kind="text/plain")},
    "/v2": {"get": _operation(TO_OIP, "Name, version and extensions of the server.")},
    "/v2/health/live": {"get": _operation(TO_OIP, "Whether the process lives.")},
    "/v2/health/ready": {"get": _operation(TO_OIP, "Whether every routed version answers.", 503)},
    "/v2/repository/index": {"post": _operation(TO_OIP, "The loaded versions.", *_OF_A_BODY, 503, body=True)},
    **_of_model("/v2/models/{name}", _NAMED),
    **_of_model("/v2/models/{name}/versions/{version}", _NAMED, _VERSIONED),
}
"""The operations of all other paths, as the document has them."""
