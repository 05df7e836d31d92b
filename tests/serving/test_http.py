"""What no request from outside brings about: the transport over parts that are not there, or fail."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httpx
from starlette.applications import Starlette
from starlette.types import ASGIApp

from serving.lifecycle import Lifecycle
from serving.parts import Parts
from serving.transports.http import HttpTransport
from serving.transports.oip.http import OipHttpTransport


def ask(lifecycle: Lifecycle, method: str, path: str, **options: Any) -> httpx.Response:
    return ask_app(HttpTransport(lifecycle).app, method, path, **options)


def ask_app(app: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
    async def one() -> httpx.Response:
        within = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=within, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(one())


def test_without_parts_it_says_that_it_is_starting() -> None:
    for method, path in (
        ("POST", "/predict"),
        ("GET", "/health"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/models"),
        ("GET", "/experiments"),
        ("POST", "/feedback"),
    ):
        response = ask(Lifecycle(), method, path)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "starting")
        assert response.headers["retry-after"] == "1"
    assert ask(Lifecycle(), "GET", "/livez").status_code == 200


def test_while_it_stops_it_is_not_ready_and_alive() -> None:
    lifecycle = Lifecycle()
    lifecycle.stopping = True
    assert ask(lifecycle, "GET", "/readyz").json()["error"]["code"] == "stopping"
    assert ask(lifecycle, "GET", "/livez").status_code == 200


def test_a_fault_of_ours_has_the_common_form_and_tells_nothing_inside() -> None:
    lifecycle = Lifecycle()
    lifecycle.parts = cast("Parts", "not parts at all")
    response = ask(lifecycle, "POST", "/predict", content=b"x")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert "str" not in response.text


def test_a_fault_of_ours_has_the_form_of_the_open_inference_protocol() -> None:
    lifecycle = Lifecycle()
    lifecycle.parts = cast("Parts", "not parts at all")
    app = Starlette(routes=OipHttpTransport(lifecycle).routes)
    for method, path in (("GET", "/v2/models/timbre"), ("POST", "/v2/models/timbre/infer")):
        response = ask_app(app, method, path)
        assert response.status_code == 500
        assert response.json()["error"].startswith("internal: ")
        assert "str" not in response.text
