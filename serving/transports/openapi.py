"""/openapi.json: what FastAPI finds out of its routes, and what it does not know."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import numpy as np
from fastapi import FastAPI

from serving.aggregate import answer
from serving.keys import API_KEY
from serving.lifecycle import Lifecycle
from serving.registry import Fleet
from serving.schemas import Prediction, Segment, Timing
from serving.transports.admission import use_of
from serving.transports.paths import OTHERS, TO_HEALTH, TO_MODELS, TO_OIP, TO_PREDICT

DESCRIPTION = """Hears a voice and says which emotion is in it.

    curl -F file=@clip.wav http://localhost:3000/predict

Live audio goes over a WebSocket, which OpenAPI has no words for: `ws://localhost:3000/v1/listen?rate_hz=16000` takes
16-bit little-endian mono samples in binary messages of about 100 ms, and the text `{"type": "end"}` after the last one;
what comes back is JSON. Its query takes `version`, `key` and `min_confidence` as that of `/predict` does, and `hop_s`.
"""
TAGS = [
    {"name": TO_PREDICT, "description": "Clips, and what was really in them."},
    {"name": TO_MODELS, "description": "What is loaded, and how versions compare."},
    {"name": TO_HEALTH, "description": "For probes and Prometheus."},
    {"name": TO_OIP, "description": "For clients and tools of Triton and KServe."},
]
"""The groups of paths, in their order."""

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "header": {"type": "apiKey", "in": "header", "name": API_KEY, "description": "An API key."},
    "login": {"type": "http", "scheme": "basic", "description": "An API key as the password of any user."},
}
_UNSURE = 0.08  # of the example's probability, shared by all labels


def tell_everything(app: FastAPI, lifecycle: Lifecycle) -> None:
    """Let /openapi.json have what FastAPI does not know.

    Paths that are no routes of its own: probes, metrics, other protocols. And what is known only once the service has
    started, so that it is looked up each time: keys, or where there are none, an answer as the default version gives
    it; the document is there for everybody, and who has no key shall not learn from it what is loaded.
    """
    of_routes = app.openapi

    def everything() -> dict[str, Any]:
        document = copy.deepcopy(of_routes())
        document["paths"] |= copy.deepcopy(OTHERS)
        parts = lifecycle.parts
        if parts and parts.settings.api_keys_file:
            _ask_for_keys(document, parts.settings.exempt)
        elif parts:
            answered = document["paths"]["/predict"]["post"]["responses"]["200"]
            answered["content"]["application/json"]["example"] = _example(parts.registry.fleet)
        return document

    app.openapi = everything  # type: ignore[method-assign]  # FastAPI's own way of changing the document


def _example(fleet: Fleet) -> dict[str, Any]:
    """What the default version might say of a clip that is as long as its window."""
    version = fleet.routes.default_version
    metadata = fleet.versions[version].session.metadata
    labels, windows = metadata.labels, metadata.windows
    probabilities = np.full(len(labels), _UNSURE / len(labels))
    probabilities[len(labels) // 2] += 1 - _UNSURE  # any of them
    heard, length_s = answer(probabilities, labels), windows.window_samples / windows.rate_hz
    return Prediction(
        **heard,
        filename="clip.wav",
        model_version=version,
        duration_s=length_s,
        segments=[Segment(start_s=0.0, end_s=length_s, **heard)],
        timing_ms=Timing(decode=0.4, queue=0.1, inference=1.9, total=2.4),
    ).model_dump()


def _ask_for_keys(document: dict[str, Any], exempt: Collection[str]) -> None:
    """Say what a key may come as, and of each operation for which scope it must be."""
    document["components"]["securitySchemes"] = _KEYS
    for path, operations in document["paths"].items():
        use = use_of(path)
        for method, operation in operations.items():
            if method in ("get", "post") and use is not None and use not in exempt:
                operation["security"] = [{name: [use]} for name in _KEYS]
