"""Before any path over HTTP: API keys, other sites' pages, and headers that keep browsers from mistakes.

Without a file of keys none is asked for. A path that is not named here needs a key for predictions, so that nothing
that is added later stands open.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import Forbidden, RequestError, Unauthenticated
from serving.keys import API_KEY
from serving.keys import Scope as Use
from serving.lifecycle import Lifecycle
from serving.parts import Parts
from serving.transports.asgi import Unread, place_of
from serving.transports.refusals import body_at

_BEARER, _BASIC = "bearer", "basic"
# By the second a browser asks whoever sits before it; in a line of its own, or Chromium sees the first alone.
_ASKS = ('Bearer realm="timbre"', 'Basic realm="timbre"')

# What tells nothing but what is in the repository: the page's own files and what the API looks like.
_PUBLIC = ("/", "/docs", "/docs/*", "/openapi.json", "/ui", "/ui/*")
_USES = {
    "/livez": Use.HEALTH,
    "/readyz": Use.HEALTH,
    "/health": Use.HEALTH,
    "/v2/health/*": Use.HEALTH,
    "/metrics": Use.METRICS,
    "/models": Use.MODELS,
    "/ui/models/*": Use.MODELS,
    "/v2/repository/*": Use.MODELS,
    "/feedback": Use.FEEDBACK,
    "/experiments": Use.EXPERIMENTS,
    "/ui/playable": Use.PREDICT,
    "/predict": Use.PREDICT,
    "/v2": Use.PREDICT,
    "/v2/*": Use.PREDICT,
}
# Balancers ask for a model's health as for the server's; other paths below a model are for predictions.
_MODEL_READY = re.compile("/v2/models/[^/]+(/versions/[^/]+)?/ready")
_DOORS: dict[str, Use | None] = dict.fromkeys(_PUBLIC) | _USES
# The longest first. A path is held against each: to cut it up at its slashes would be the asker's to make long.
_BELOW = [(name.removesuffix("*"), _DOORS[name]) for name in sorted(_DOORS, key=len, reverse=True) if name[-1] == "*"]
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
}


class Admission:
    """The application behind its door.

    Args:
        app: answers whoever passes. Live streams ask the guard themselves: theirs is another way of refusing.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app, self._lifecycle = app, lifecycle
        self._shared: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._door()(scope, receive, with_headers)

    def _door(self) -> ASGIApp:
        """With pages of other sites let in, where there are such: browsers ask for that before, and without a key."""
        origins = self._lifecycle.parts.settings.cors_origins if self._lifecycle.parts else ()
        if origins and self._shared is None:
            self._shared = CORSMiddleware(
                self._guarded,
                allow_origins=origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", API_KEY, "X-Model-Version", "X-Timbre-Key"],
                expose_headers=["X-Model-Version", "X-Timbre-Variant", "X-Request-ID", "Retry-After"],
            )
        return self._shared or self._guarded

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # While it starts, nothing is there that could be had; and who has a place has been let pass.
            if self._lifecycle.parts and place_of(scope) is None:
                admit(self._lifecycle.parts, scope)
        except RequestError as error:
            await refusal_at(scope["path"], error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def admit(parts: Parts, scope: Scope) -> None:
    """Let a request pass.

    Raises:
        Forbidden: another site's page asks, or the key is not for this. Unauthenticated, RateLimited: by the guard.
    """
    use = use_of(scope["path"])
    if use is None:
        return
    headers = Headers(scope=scope)
    credential, ambient = credential_of(headers)
    if ambient and is_foreign(headers, parts.settings.cors_origins):
        raise foreign(headers)
    parts.guard.admit(credential, use)


def use_of(path: str) -> Use | None:
    """What a path is used for; None where everybody may. The longest name that fits counts."""
    if path in _DOORS:
        return _DOORS[path]
    if _MODEL_READY.fullmatch(path):
        return Use.HEALTH
    return next((use for below, use in _BELOW if path.startswith(below)), Use.PREDICT)


def credential_of(headers: Headers) -> tuple[str | None, bool]:
    """The key of a request, if there is one, and whether a browser adds it by itself."""
    if API_KEY in headers:
        return headers[API_KEY], False
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == _BEARER:
        return value.strip(), False
    if kind.lower() == _BASIC:  # the key as the password, under any name
        try:
            _, _, key = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeError):
            return "", True
        return key, True
    return None, False


def is_foreign(headers: Headers, allowed: Sequence[str]) -> bool:
    """Whether a browser asks in the name of another site's page than ours and the allowed ones."""
    origin = headers.get("origin")
    return bool(origin) and origin not in allowed and urlsplit(str(origin)).netloc != headers.get("host", "")


def foreign(headers: Headers) -> Forbidden:
    """The refusal of what another site's page asks."""
    return Forbidden(
        f"A page of {headers.get('origin', '')[:80]} asks; pages of other sites may not. TIMBRE_CORS allows some."
    )


def refusal_at(path: str, error: RequestError) -> JSONResponse:
    """In the form of the path, of a request that is not read."""
    answer = Unread(body_at(path, error), error.http_status, _HEADERS | error.headers)
    if isinstance(error, Unauthenticated):
        for challenge in _ASKS:
            answer.headers.append("WWW-Authenticate", challenge)
    return answer
