"""The web page at /: its files, what a version's folder says of it, and uploads made playable for a browser.

Everything else that the page does, it does through the public paths, as any client would.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import secrets
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import soundfile
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from serving import audio
from serving.errors import NotFound, RequestError, UnknownVersion
from serving.lifecycle import Lifecycle
from serving.parts import Parts
from serving.pipeline import Upload
from serving.report import report
from serving.room import Holding, Take
from serving.transports.body import read_upload
from serving.transports.refusals import refusal_of

_FOLDER = Path(__file__).parents[1] / "ui"

# What the page may load: what comes from this host, and recordings that it holds itself. No script and no style may
# stand in the page, but for the styles that wavesurfer.js writes: they carry a word that each answer has of its own.
_NONCE = "NONCE"
_KEYS = "KEYS"  # in the page, by whether there are API keys
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' 'nonce-{_NONCE}'",
        "img-src 'self' data:",
        "media-src blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = {"Cache-Control": "no-cache"}  # asked for each time, and sent again only where it has changed
_PCM_BYTES = 2
_PIECE_SAMPLES = 1 << 15  # of a playable clip, that are on their way at a time


class PageTransport:
    """The page's paths, for the HTTP application; with ``TIMBRE_UI=off`` there is nothing at them."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._files = StaticFiles(directory=_FOLDER)

    @property
    def routes(self) -> list[BaseRoute]:
        """What is mounted."""
        return [
            Route("/", self._index),
            Route("/ui/models/{version}", self._model),
            Route("/ui/playable", _Playable(self._parts), methods=["POST"]),
            Mount("/ui", self._file),
        ]

    async def _index(self, _: Request) -> Response:
        """The page, or where there is none, what the API looks like."""
        settings = self._lifecycle.get().settings
        if settings.ui == "off":
            return RedirectResponse("docs")
        nonce, keys = secrets.token_urlsafe(16), "on" if settings.api_keys_file else "off"
        policy = {"Content-Security-Policy": _POLICY.replace(_NONCE, nonce)}
        return HTMLResponse(_page().replace(_NONCE, nonce).replace(_KEYS, keys), headers=policy | _HEADERS)

    async def _file(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A file of the page, as it lies in the folder."""
        self._parts(scope)
        response = await self._files.get_response(self._files.get_path(scope), scope)
        response.headers.update(_HEADERS)
        await response(scope, receive, send)

    async def _model(self, request: Request) -> Response:
        """What lies beside a loaded version for people: see :func:`serving.report.report`."""
        parts = self._parts(request.scope)
        loaded, version = list(parts.registry.fleet.versions), request.path_params["version"]
        if version not in loaded:
            raise UnknownVersion.among(version, loaded)
        return JSONResponse(await asyncio.to_thread(report, parts.settings.models, version), headers=_HEADERS)

    def _parts(self, scope: Scope) -> Parts:
        """The parts.

        Raises:
            Starting: there are none yet. NotFound: there shall be no page.
        """
        parts = self._lifecycle.get()
        if parts.settings.ui == "off":
            raise NotFound(f"There is nothing at {scope['path']}: the page is off (TIMBRE_UI).")
        return parts


@functools.cache
def _page() -> str:
    return (_FOLDER / "index.html").read_text()


class _Playable:
    """Answers an upload as the model hears it, as WAV: browsers do not play everything that is read here.

    A few kilobytes may hold ten minutes, so what is heard of them counts until it has been sent.

    Args:
        parts: gives the parts to a request, or raises why it gets none.
    """

    def __init__(self, parts: Callable[[Scope], Parts]) -> None:
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = self._parts(scope)
        with parts.pipeline.holding() as held:
            answer = await self._answer(Request(scope, receive, send), parts, held)
            # Whoever takes longer than a body may has room that others want; the server breaks off what is not whole.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(parts.settings.upload_timeout_s):
                    await answer(scope, receive, send)

    async def _answer(self, request: Request, parts: Parts, held: Holding) -> Response:
        pipeline, settings = parts.pipeline, parts.settings
        with parts.uploads.holding() as take:
            try:
                pipeline.expect_room()
                upload = await read_upload(request, settings.max_upload_bytes, settings.upload_timeout_s, take)
            except RequestError as error:
                return refusal_of(request, error)
            rate_hz = parts.registry.fleet.default.session.metadata.windows.rate_hz
            samples = await pipeline.aside(functools.partial(_heard, upload, rate_hz, settings.limits), held, take)
        head = _wav_head(len(samples), rate_hz)
        size = len(head) + _PCM_BYTES * len(samples)
        return StreamingResponse(
            _wav(head, samples, rate_hz), media_type="audio/wav", headers={"Content-Length": str(size)}
        )


def _heard(upload: Upload, rate_hz: int, limits: audio.Limits, take: Take) -> audio.Samples:
    """The clip, float32 (T,), mono at ``rate_hz``; raises what ``audio.read`` does."""
    return audio.read(upload.open(), rate_hz, limits, take).samples


async def _wav(head: bytes, samples: audio.Samples, rate_hz: int) -> AsyncIterator[bytes]:
    """A WAV file of 16 bit piece by piece: nothing of it is there before there is room on the way to the client."""
    yield head
    for start in range(0, len(samples), _PIECE_SAMPLES):
        piece = io.BytesIO()
        soundfile.write(piece, samples[start : start + _PIECE_SAMPLES], rate_hz, format="RAW", subtype="PCM_16")
        yield piece.getvalue()


def _wav_head(samples: int, rate_hz: int) -> bytes:
    """What stands before the samples of a mono WAV file of 16 bit."""
    head = io.BytesIO()
    with wave.open(head, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(_PCM_BYTES)
        file.setframerate(rate_hz)
        file.setnframes(samples)
        file.writeframesraw(b"")
        return head.getvalue()  # before it is closed, which would write how little came
