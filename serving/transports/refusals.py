"""Every refusal of the HTTP application in one form, its own as the framework's: ``{"error": {"code", "message"}}``.

Below ``/v2`` it is ``{"error": "code: message"}``: the Open Inference Protocol wants a string.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from serving.errors import MethodNotAllowed, NotFound, RequestError, TooLarge, UploadTimeout
from serving.transports.asgi import Unread


def body_at(path: str, error: RequestError) -> dict[str, Any]:
    """The body of a refusal, in the form of its path."""
    return {"error": error.line} if f"{path}/".startswith("/v2/") else error.body()


def refusal(error: RequestError, path: str = "/") -> JSONResponse:
    """The answer to a refused request."""
    return JSONResponse(body_at(path, error), error.http_status, error.headers)


def refusal_of(request: Request, error: RequestError) -> JSONResponse:
    """The same for a request whose body may not have come in whole."""
    if getattr(request.state, "body_read", False):
        return refusal(error)
    return Unread(error.body(), error.http_status, error.headers)


class Unmatched:
    """Refuses what no route takes, whatever the method: 405 where the path exists, else 404."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        allowed = ", ".join(sorted(_methods_of(request)))
        answer = _wrong_method(request, allowed) if allowed else _nothing_at(request)
        await answer(scope, receive, send)


def _methods_of(request: Request) -> set[str]:
    """What the routes of that path take."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    partial = [route for route in routes if route.matches(request.scope)[0] is Match.PARTIAL]
    return {method for route in partial for method in route.methods or ()}


def _nothing_at(request: Request) -> JSONResponse:
    path = request.url.path
    return refusal(NotFound(f"There is nothing at {path}. /docs shows what there is."), path)


def _wrong_method(request: Request, allowed: str) -> JSONResponse:
    methods, path = allowed.split(", "), request.url.path
    error = MethodNotAllowed(
        f"{request.method} is not allowed on {path}; {' and '.join(methods)} {'is' if len(methods) == 1 else 'are'}.",
        allowed=methods,
    )
    return JSONResponse(body_at(path, error), error.http_status, {"Allow": allowed})


async def _answer_refusal(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestError):
        raise error
    # By these a body has been given up before its end.
    return refusal_of(request, error) if isinstance(error, TooLarge | UploadTimeout) else refusal(error)


async def _answer_framework(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself, as the static files do, in the form that everything else has."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return _wrong_method(request, (error.headers or {}).get("Allow", "GET, HEAD"))
    return _nothing_at(request)


async def _answer_nobody(_: Request, __: Exception) -> Response:
    """The client left while it was sending; whatever is answered goes nowhere."""
    return Response(status_code=400)


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    RequestError: _answer_refusal,
    HTTPException: _answer_framework,
    ClientDisconnect: _answer_nobody,
}
"""By exception, for the application."""
