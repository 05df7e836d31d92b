"""What the protocol asks, answered by the pipeline; either wire translates to and from this."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from serving import __version__
from serving.errors import InvalidRequest, NotFound, RequestError, UnknownVersion
from serving.formats import QUICK_BYTES
from serving.lifecycle import Lifecycle
from serving.ordered import in_order
from serving.pipeline import AT_A_TIME, Answer, Ask
from serving.places import Place
from serving.registry import Loaded
from serving.room import Holding
from serving.transports.oip.tensors import (
    AUDIO,
    CONFIDENCE,
    EMOTION,
    FP32,
    INPUTS,
    OUTPUTS,
    PROBABILITIES,
    WAVEFORM,
    Tensor,
    Wanted,
    answers,
    check_outputs,
    clips,
    named,
)

P = ParamSpec("P")
T = TypeVar("T")

NAME = "timbre"
"""The one model; its versions are the loaded ones."""

PLATFORM = "onnxruntime_onnx"
SERVER = {
    "name": NAME,
    "version": __version__,
    "extensions": ["binary_tensor_data", "classification", "model_configuration"],  # of the repository the index only
}
STATISTICS = "No statistics are told by this protocol; /metrics over HTTP has them, for Prometheus."
LOADING = "No request loads or unloads a version; routes.yaml does, which is followed while the service runs."
"""Why two of Triton's extensions are refused: each says where what is looked for can be had."""
_CONFIG_TYPES = {"BYTES": "TYPE_STRING", FP32: "TYPE_FP32"}


@dataclass(frozen=True)
class Infer:
    """One request for inference.

    Attributes:
        version: empty for any by its weight.
        parameters: `key`, `min_confidence`, `sample_rate` and `timeout` (microseconds) are looked at.
        outputs: what is wanted; empty for all.
        traceparent: the caller's trace, for whoever traces.
        place: what was kept for it on its way in.
        body: what it counts in memory.
    """

    model: str
    version: str
    parameters: Mapping[str, Any]
    inputs: Sequence[Tensor]
    outputs: Sequence[Wanted]
    traceparent: str | None = None
    place: Place | None = None
    body: Holding | None = None


@dataclass(frozen=True)
class Inferred:
    """The answer: who gave it, and the outputs in the order they were asked for."""

    version: str
    variant: str
    outputs: list[Tensor]


class Model:
    """The model as the protocol sees it, over a service that may be starting, ready or stopping."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def infer(self, request: Infer, transport: str, timeout_s: float | None = None) -> Inferred:
        """Hear every clip of the request; they are answered by one variant.

        Raises:
            NotFound, UnknownVersion: no such model or version.
            InvalidRequest: inputs, outputs or parameters are none that are taken.
            RequestError: a clip is refused; with several, the message says which.
        """
        pipeline = self._lifecycle.get().pipeline
        try:
            asks = self._asks(request, transport, timeout_s)
        except RequestError as error:
            pipeline.refused(error, transport)
            raise
        told: list[Answer] = []
        try:
            async with aclosing(in_order(_each(asks), pipeline.predict, AT_A_TIME)) as heard:
                async for answer in heard:
                    told.append(answer)  # noqa: PERF401 - their number says which one failed
        except RequestError as error:
            if len(asks) == 1:
                raise
            raise type(error)(f"Clip {len(told)}: {error.message}", **error.details) from error
        predictions = [answer.prediction for answer in told]
        return Inferred(predictions[0].model_version, told[0].variant, answers(predictions, request.outputs))

    async def ready(self, name: str, version: str = "") -> bool:
        """Whether a version, or with none the model, may be asked.

        Raises:
            NotFound, UnknownVersion: there is none such, which is no error to everybody who asks.
        """
        if await self._lifecycle.why_not_ready() is not None:
            return False
        self._loaded(name, version)
        return True

    async def server_ready(self) -> bool:
        return await self._lifecycle.why_not_ready() is None

    def metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Names, types and shapes of the tensors; the labels stand with `probabilities`."""
        loaded = self._loaded(name, version)
        shapes = self._shapes(loaded)
        outputs: list[dict[str, Any]] = [
            {"name": tensor, "datatype": kind, "shape": shapes[tensor]} for tensor, kind in OUTPUTS.items()
        ]
        outputs[-1]["parameters"] = named(loaded.session.metadata.labels)
        return {
            "name": NAME,
            "versions": [version] if version else list(self._lifecycle.get().registry.fleet.versions),
            "platform": PLATFORM,
            "inputs": [{"name": tensor, "datatype": kind, "shape": shapes[tensor]} for tensor, kind in INPUTS.items()],
            "outputs": outputs,
        }

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """The same as Triton's tools want it."""
        loaded = self._loaded(name, version)
        shapes = self._shapes(loaded)
        return {
            "name": NAME,
            "platform": PLATFORM,
            "max_batch_size": 0,
            "input": [
                {"name": tensor, "data_type": _CONFIG_TYPES[kind], "dims": shapes[tensor], "optional": True}
                for tensor, kind in INPUTS.items()
            ],
            "output": [
                {"name": tensor, "data_type": _CONFIG_TYPES[kind], "dims": shapes[tensor]}
                for tensor, kind in OUTPUTS.items()
            ],
            "parameters": {
                name: {"string_value": value} for name, value in named(loaded.session.metadata.labels).items()
            },
        }

    async def index(self, ready: bool) -> list[dict[str, str]]:
        """The loaded versions and whether they answer; with ``ready`` those only that do."""
        error = await self._lifecycle.why_not_ready()
        state, reason = ("READY", "") if error is None else ("UNAVAILABLE", error.message)
        if ready and error is not None:
            return []
        versions = self._lifecycle.get().registry.fleet.versions
        return [{"name": NAME, "version": version, "state": state, "reason": reason} for version in versions]

    def _asks(self, request: Infer, transport: str, timeout_s: float | None) -> list[Ask]:
        rate_hz = self._loaded(request.model, request.version).session.metadata.windows.rate_hz
        check_outputs(request.outputs)
        found = clips(request.inputs, request.parameters, rate_hz)
        key = request.parameters.get("key")
        if key is None and len(found) > 1:
            key = secrets.token_hex(8)  # one variant for all of them: the answer names one version
        told_s = _number(request.parameters, "timeout", 0.0, 1e15) / 1e6
        waits_s = [seconds for seconds in (timeout_s, told_s or None) if seconds is not None]
        first = Ask(
            found[0],
            transport,
            version=request.version or None,
            key=None if key is None else str(key),
            min_confidence=_number(request.parameters, "min_confidence", 0.0, 1.0),
            timeout_s=min(waits_s, default=None),
            traceparent=request.traceparent,
            place=request.place,
            body=request.body,
        )
        return [dataclasses.replace(first, upload=clip) for clip in found]

    def _loaded(self, name: str, version: str) -> Loaded:
        fleet = self._lifecycle.get().registry.fleet
        if name != NAME:
            raise NotFound(f"There is no model {name[:40]!r}; {NAME!r} is the only one.")
        if not version:
            return fleet.default
        if version not in fleet.versions:
            raise UnknownVersion.among(version, list(fleet.versions))
        return fleet.versions[version]

    def _shapes(self, loaded: Loaded) -> dict[str, list[int]]:
        labels = len(loaded.session.metadata.labels)
        return {AUDIO: [-1], WAVEFORM: [-1, -1], EMOTION: [-1], CONFIDENCE: [-1], PROBABILITIES: [-1, labels]}


async def beside(size: int, parse: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a body of ``size`` bytes says: a long one, of millions of numbers, is read in a thread."""
    if size <= QUICK_BYTES:
        return parse(*args, **kwargs)
    return await asyncio.to_thread(parse, *args, **kwargs)


async def _each(asks: Sequence[Ask]) -> AsyncIterator[Ask]:
    for ask in asks:
        yield ask


def _number(parameters: Mapping[str, Any], name: str, least: float, most: float) -> float:
    value = parameters.get(name, least)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidRequest(f"Parameter {name} is a number from {least:g} to {most:g}; {str(value)[:40]!r} came.")
    return float(value)
