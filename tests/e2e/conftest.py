from __future__ import annotations

import shutil
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.service import Service, running
from tests.sounds import speech
from tests.transports import Clip, clip_of


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Where no test says otherwise, httpx gives up after five seconds: a busy machine may stand still for so long."""
    usual = httpx._config.DEFAULT_TIMEOUT_CONFIG  # the very object that stands in the signatures of httpx
    with pytest.MonkeyPatch.context() as patch:
        for what in ("connect", "read", "write", "pool"):
            patch.setattr(usual, what, 60.0)
        yield


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with the committed models and default settings, on a free port."""
    with running(tmp_path_factory.mktemp("service") / "log.txt") as service:
        yield service


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def spoken() -> dict[int, Clip]:
    """By rate: a second of silence, a sentence, a pause, another sentence, silence."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("needs espeak-ng, which is not on this machine")
    clips = {}
    for rate_hz in (8_000, 16_000, 48_000):
        quiet = np.zeros(3 * rate_hz // 2, dtype=np.float32)
        first = speech("The kids are talking by the door.", rate_hz)
        second = speech("Dogs are sitting by the door, and nobody has fed them.", rate_hz, pitch=70)
        clips[rate_hz] = clip_of(np.concatenate([quiet, first, quiet, second, quiet]), rate_hz)
    return clips


@pytest.fixture(autouse=True)
def still_well(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test sent to the shared service: it lives, and answers the next good request."""
    yield
    if "client" in request.fixturenames:
        client: httpx.Client = request.getfixturevalue("client")
        from tests.sounds import encode, voice

        good = client.post("/predict", files={"file": ("after.wav", encode(voice(1.0), 16_000))})
        assert good.status_code == 200, good.text
