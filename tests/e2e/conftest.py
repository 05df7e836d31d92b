from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.service import Service, running


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with the committed models and default settings, on a free port."""
    with running(tmp_path_factory.mktemp("service") / "log.txt") as service:
        yield service


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client


@pytest.fixture(autouse=True)
def still_well(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test sent to the shared service: it lives, and answers the next good request."""
    yield
    if "client" in request.fixturenames:
        client: httpx.Client = request.getfixturevalue("client")
        from tests.sounds import encode, voice

        good = client.post("/predict", files={"file": ("after.wav", encode(voice(1.0), 16_000))})
        assert good.status_code == 200, good.text
