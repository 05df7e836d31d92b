"""BentoML's own doors are shut: what it would unpickle, fetch or manage, were its application asked."""

from __future__ import annotations

import pickle
import re
import socket
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.service import Service

# Where BentoML answers by itself: its documents, its runners' protocol, tasks, and what it mounts.
PATHS = [
    "/schema.json",
    "/docs.json",
    "/healthz",
    "/__main__",
    "/predict/submit",
    "/predict/status",
    "/static_content/x",
]
PICKLES = [
    "application/vnd.bentoml+pickle",
    "application/vnd.bentoml.pickle",
    "application/x-pickle",
    "application/python-pickle",
    "application/vnd.bentoml.multipart+pickle",
]


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._file,)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_bentomls_paths_are_not_there(client: httpx.Client, method: str, path: str) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("kind", PICKLES)
def test_nothing_is_unpickled_whatever_it_is_called(client: httpx.Client, tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "unpickled"
    bomb = pickle.dumps(Bomb(marker))
    pickle.loads(bomb)  # noqa: S301 - it is one
    assert marker.exists()
    marker.unlink()
    headers = {"Content-Type": kind, "Bento-Name": "timbre", "Payload-Container": "Default"}
    assert client.post("/predict", content=bomb, headers=headers).json()["error"]["code"] == "unsupported_media_type"
    for path in ("/", "/feedback", "/v2/models/timbre/infer", "/predict/submit"):
        assert 400 <= client.post(path, content=bomb, headers=headers).status_code < 500
    assert 400 <= client.post("/predict", files={"file": ("x", bomb, kind)}).status_code < 500
    assert not marker.exists()


def test_no_address_is_called_wherever_it_stands(client: httpx.Client, service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/clip.wav"
        asked = [
            client.post("/predict", data={"file": url}),
            client.post("/predict", json={"file": url}),
            client.post("/predict", json=url),
            client.post("/predict", params={"file": url}),
            client.post("/predict", files={"file": (url, url.encode(), "audio/wav")}),
            client.post("/predict", content=url, headers={"Content-Type": "text/uri-list"}),
        ]
        assert all(400 <= answer.status_code < 500 for answer in asked)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_bentoml_is_newer_than_its_last_known_hole() -> None:
    """CVE-2026-44345. pip-audit asks about all of the lock, where its database can be reached; this is always known."""
    found = re.search(
        r"^bentoml==(\d+)\.(\d+)\.(\d+)", (ROOT / "requirements" / "serving.txt").read_text(), re.MULTILINE
    )
    assert found
    assert tuple(map(int, found.groups())) >= (1, 4, 39)
