"""What no request from outside brings about: the transport over parts that are not there, or fail."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from serving.transports.http import HttpTransport


def ask(transport: HttpTransport, method: str, path: str, **options: Any) -> httpx.Response:
    async def one() -> httpx.Response:
        within = httpx.ASGITransport(transport.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=within, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(one())


def test_without_parts_it_says_that_it_is_starting() -> None:
    for method, path in (("POST", "/predict"), ("GET", "/health"), ("GET", "/metrics")):
        response = ask(HttpTransport(), method, path)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "starting")


def test_a_fault_of_ours_has_the_common_form_and_tells_nothing_inside() -> None:
    transport = HttpTransport()
    transport.parts = "not parts at all"  # type: ignore[assignment]
    response = ask(transport, "POST", "/predict", content=b"x")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert "str" not in response.text
