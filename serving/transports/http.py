"""HTTP for people and probes: /predict, /models, /feedback, /experiments, /health, /livez, /readyz, /metrics, /docs.

It is an application of our own and not ``@bentoml.api`` methods, because those read whole bodies before a limit can be
asked, fetch URLs that come in file fields, and know no error body but their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles

from serving import __version__
from serving.errors import InvalidRequest, RequestError
from serving.experiments import experiments
from serving.lifecycle import Lifecycle
from serving.metrics import CONTENT_TYPE
from serving.parts import Parts
from serving.pipeline import Ask
from serving.room import Holding
from serving.schemas import FeedbackIn, FeedbackOut, Health, Models, Prediction
from serving.tracing import PARENT
from serving.transports.admission import Admission
from serving.transports.asgi import place_of, unless_gone
from serving.transports.body import read_small, read_upload
from serving.transports.docs import docs, swagger_assets
from serving.transports.faults import Faults
from serving.transports.openapi import DESCRIPTION, TAGS, tell_everything
from serving.transports.paths import ROUTES
from serving.transports.query import KEY, OF_PREDICTIONS, VERSION, min_confidence, parameters, shown
from serving.transports.refusals import HANDLERS, Unmatched, refusal, refusal_of

Small = TypeVar("Small", bound=BaseModel)

TRANSPORT = "http"
"""This transport's name in the metrics."""
PREDICT = "/predict"
"""The path that takes a clip."""

VERSION_HEADER, VARIANT_HEADER = "X-Model-Version", "X-Timbre-Variant"
KEY_HEADER, ID_HEADER = "X-Timbre-Key", "X-Request-ID"


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

        With `?min_confidence=0.6` the emotion is null where the model is less sure. `?version=`, or the header
        `X-Model-Version`, asks for a version; `?key=`, or `X-Timbre-Key` (any user or session id), for always the same
        variant. The answer's `X-Model-Version` and `X-Timbre-Variant` say who answered, and its `X-Request-ID` is what
        `/feedback` takes.
        """
        parts = self._lifecycle.get()
        with parts.uploads.holding() as take:
            try:
                ask = await self._asked(request, parts, take)
            except RequestError as error:
                parts.pipeline.refused(error, TRANSPORT)
                return refusal_of(request, error)
            except ClientDisconnect:
                parts.pipeline.left(TRANSPORT)
                raise
            answer = await unless_gone(request, parts.pipeline.predict(ask))
        return Response(
            answer.prediction.model_dump_json(),
            media_type="application/json",
            headers={
                VERSION_HEADER: answer.prediction.model_version,
                VARIANT_HEADER: answer.variant,
                ID_HEADER: answer.request_id,
            },
        )

    async def _asked(self, request: Request, parts: Parts, take: Holding) -> Ask:
        """What the pipeline is asked; its permits and all that the head says are looked at before the body is read."""
        place = place_of(request.scope)
        parts.pipeline.expect_room(place)
        given = parameters(request.query_params, PREDICT, OF_PREDICTIONS)
        version, key = _said(request, VERSION_HEADER, given, VERSION), _said(request, KEY_HEADER, given, KEY)
        least, settings = min_confidence(given), parts.settings
        return Ask(
            await read_upload(request, settings.max_upload_bytes, settings.upload_timeout_s, take),
            TRANSPORT,
            version,
            key or None,
            least,
            traceparent=request.headers.get(PARENT),
            place=place,
            body=take,
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
        told = await _read_small(request, FeedbackIn, parts.settings.upload_timeout_s)
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
        return JSONResponse({"status": "ok"}) if error is None else refusal(error)

    async def _to_the_docs(self, _: Request) -> Response:
        return RedirectResponse("docs")

    def _build(self, others: Sequence[BaseRoute]) -> FastAPI:
        app = FastAPI(
            title="Timbre",
            version=__version__,
            description=DESCRIPTION,
            openapi_tags=TAGS,
            docs_url=None,
            redoc_url=None,
            exception_handlers=HANDLERS,
        )
        app.add_middleware(Admission, lifecycle=self._lifecycle)
        app.add_middleware(Faults)  # the last added hears of what all others fail at
        app.add_api_route(PREDICT, self.predict, methods=["POST"], response_model=Prediction, **ROUTES[PREDICT])
        app.add_api_route("/models", self.models, methods=["GET"], **ROUTES["/models"])
        app.add_api_route("/feedback", self.feedback, methods=["POST"], **ROUTES["/feedback"])
        app.add_api_route("/experiments", self.experiments, methods=["GET"], **ROUTES["/experiments"])
        app.add_api_route("/health", self.health, methods=["GET"], **ROUTES["/health"])
        app.add_route("/health", self._head_of_health, methods=["HEAD"], include_in_schema=False)
        app.add_route("/livez", self._livez, include_in_schema=False)
        app.add_route("/readyz", self._readyz, include_in_schema=False)
        app.add_route("/metrics", self._metrics, include_in_schema=False)
        app.add_route("/docs", docs, include_in_schema=False)
        app.mount("/docs/assets", StaticFiles(directory=swagger_assets()))
        app.router.routes.extend(others)
        app.add_route("/", self._to_the_docs, include_in_schema=False)  # where there is no page
        # Last, for whatever nothing above takes.
        app.router.routes.append(Route("/{path:path}", Unmatched()))
        tell_everything(app, self._lifecycle)
        return app


def _said(request: Request, header: str, given: Mapping[str, str], parameter: str) -> str | None:
    """What a header or a parameter of the query says, whichever came; None where neither did.

    Raises:
        InvalidRequest: they say different things.
    """
    said = [_text(value) for value in request.headers.getlist(header)]
    said += [given[parameter]] if parameter in given else []
    if len(set(said)) > 1:
        raise InvalidRequest(
            f"{header} and ?{parameter}= say the same thing, and it came as {' and as '.join(map(shown, said[:3]))}. "
            "Send one of them."
        )
    return said[0] if said else None


def _text(header: str) -> str:
    """A header's value as its sender meant it: its bytes are UTF-8, as a query's are, or else Latin-1."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeDecodeError:
        return header


async def _read_small(request: Request, schema: type[Small], timeout_s: float) -> Small:
    """A JSON body of a few hundred bytes.

    Raises:
        TooLarge: it is more than that.
        UploadTimeout: it does not come in time.
        InvalidRequest: it is not JSON, or not of this schema.
    """
    body = await read_small(request, timeout_s, lambda _: None)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors())
        wanted = ", ".join(schema.model_fields)
        raise InvalidRequest(f"The body must be a JSON object of {wanted}. {faults}.") from error
