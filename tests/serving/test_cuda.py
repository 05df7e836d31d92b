"""The CUDA path: the same answers as on the CPU, batches of every size, and a service that says what it runs on."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.artifact import Artifact
from serving.errors import RuntimeUnavailable
from serving.runtime import Runtime, choose_runtime
from serving.session import Session
from tests.service import running
from tests.sounds import encode, voice


def _missing() -> str:
    try:
        choose_runtime("cuda", 0, 0)
    except RuntimeUnavailable as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=f"needs a GPU: {_missing()}")


@pytest.fixture(scope="module")
def cuda(exported: Path) -> Session:
    return Session(Artifact.load(exported / "1"), choose_runtime("cuda", 0, 0))


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_it_answers_as_the_cpu_does(cuda: Session, exported: Path, batch: int) -> None:
    cpu = Session(Artifact.load(exported / "1"), Runtime("cpu", lanes=1, threads=1, batch_windows=4))
    windows = np.stack([voice(3.0, pitch_hz=80 + 3 * n, seed=n) for n in range(batch)])
    np.testing.assert_allclose(cuda.run(windows), cpu.run(windows), atol=1e-3)


def test_every_batch_size_is_warmed_up(cuda: Session) -> None:
    assert [windows for windows, _ in cuda.warmed_up] == cuda.runtime.batch_sizes
    assert cuda.runtime.batch_sizes[-1] == 64


def test_the_service_says_that_it_runs_on_cuda(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", runtime="cuda") as service:
        answer = httpx.post(f"{service.url}/predict", files={"file": encode(voice(3.0), 16_000)}, timeout=60)
        assert answer.status_code == 200
        models = httpx.get(f"{service.url}/models").json()
        assert (models["device"], models["note"]) == ("cuda", "")
        assert 'timbre_model_info{device="cuda",version="1"} 1.0' in httpx.get(f"{service.url}/metrics").text
