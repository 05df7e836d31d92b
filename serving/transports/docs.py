"""/docs: the page that shows the API, which loads nothing from another host."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import bentoml
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse


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
