"""The CUDA path: the same answers as on the CPU, batches of every size, and a service that says what it runs on."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from serving.artifact import Artifact
from serving.errors import RuntimeUnavailable
from serving.runtime import Runtime, choose_runtime
from serving.session import Session
from tests.conftest import SERVED
from tests.service import metric, running
from tests.sounds import encode, voice


def _missing() -> str:
    try:
        choose_runtime("cuda", 0, 0)
    except RuntimeUnavailable as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=f"needs a GPU: {_missing()}")

# Each with how far its probabilities may be from those of the full-precision file on the CPU. On recent GPUs, products
# of float32 matrices are computed in TF32, which has 10 bits of mantissa, as float16 has.
PRECISIONS = {"fp32": 5e-3, "fp16": 2e-2}


def load(exported: Path, precision: str) -> Artifact:
    """The version that answers; skips where it has no file of that precision."""
    artifact = Artifact.load(exported / SERVED, precision)
    if precision not in ("fp32", *artifact.file.name.split(".")):
        pytest.skip(f"version {SERVED} has no {precision} file")
    return artifact


@pytest.fixture(scope="module", params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def cuda(exported: Path, precision: str) -> Session:
    return Session(load(exported, precision), choose_runtime("cuda", 0, 0))


@pytest.fixture(scope="module")
def cpu(exported: Path) -> Session:
    return Session(load(exported, "fp32"), Runtime("cpu", lanes=1, threads=1, batch_windows=4))


def voices(count: int) -> npt.NDArray[np.float32]:
    return np.stack([voice(3.0, pitch_hz=80 + 3 * n, seed=n) for n in range(count)])


@pytest.mark.parametrize("batch", [1, 3, 33, 64])
def test_it_answers_as_the_cpu_does(cuda: Session, cpu: Session, precision: str, batch: int) -> None:
    windows = voices(batch)
    found = cuda.run(windows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(found, cpu.run(windows), atol=PRECISIONS[precision])


def test_every_batch_size_that_is_run_has_been_warmed_up(cuda: Session) -> None:
    warmed = [windows for windows, _ in cuda.warmed_up]
    assert warmed == cuda.runtime.batch_sizes == [1, 2, 4, 8, 16, 32, 64]
    assert {cuda.runtime.padded_size(windows) for windows in range(1, 65)} == set(warmed)


def test_on_cuda_the_half_precision_file_is_what_answers(exported: Path) -> None:
    runtime = choose_runtime("cuda", 0, 0)
    assert load(exported, "fp16").file.name == Artifact.load(exported / SERVED, runtime.precision).file.name


def test_the_service_says_that_it_runs_on_cuda(tmp_path: Path) -> None:
    with (
        running(tmp_path / "log.txt", runtime="cuda") as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        answer = client.post("/predict", files={"file": encode(voice(3.0), 16_000)})
        assert answer.status_code == 200
        models = client.get("/models").json()
        assert (models["device"], models["note"]) == ("cuda", "")
        assert metric(client, "timbre_model_info", device="cuda", version=SERVED) == 1
        assert metric(client, "timbre_runtime_fallback") == 0


def test_auto_takes_the_gpu_that_is_there(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", runtime="auto") as service:
        assert httpx.get(f"{service.url}/models").json()["device"] == "cuda"
