"""A session that takes itself for one on CUDA: what it asks of ONNX Runtime, on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from serving.artifact import Artifact
from serving.runtime import Runtime
from serving.session import Session
from tests.conftest import SERVED
from tests.sounds import voice

REAL = onnxruntime.InferenceSession


class Binding:
    """What is bound, and what a run made of it."""

    def __init__(self) -> None:
        self.windows: npt.NDArray[np.float32] = np.empty(0, np.float32)
        self.probabilities: npt.NDArray[np.float32] = np.empty(0, np.float32)

    def bind_cpu_input(self, _: str, windows: npt.NDArray[np.float32]) -> None:
        self.windows = windows

    def bind_output(self, name: str, device: str) -> None:
        assert (name, device) == ("probabilities", "cuda")

    def copy_outputs_to_cpu(self) -> list[npt.NDArray[Any]]:
        return [self.probabilities]


class OnTheCpu:
    """ONNX Runtime that says it has CUDA, and writes down the sizes of its batches."""

    sizes: list[int]

    def __init__(self, model: bytes, options: Any, providers: list[str]) -> None:
        assert providers[0] == "CUDAExecutionProvider"
        self._real = REAL(model, options, providers=providers[1:])
        OnTheCpu.sizes = []

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding) -> None:
        OnTheCpu.sizes.append(len(binding.windows))
        (binding.probabilities,) = self._real.run(["probabilities"], {"waveform": binding.windows})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def on_cuda(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(onnxruntime, "InferenceSession", OnTheCpu)
    return Session(Artifact.load(exported / SERVED), Runtime("cuda", lanes=2, threads=1, batch_windows=12))


def test_on_cuda_only_sizes_that_were_warmed_up_are_run(on_cuda: Session, exported: Path) -> None:
    warmed = {windows for windows, _ in on_cuda.warmed_up}
    assert warmed == set(OnTheCpu.sizes) == {1, 2, 4, 8, 12}
    OnTheCpu.sizes.clear()
    everything = np.stack([voice(3.0, pitch_hz=80 + 5 * n, seed=n) for n in range(12)])
    (wanted,) = REAL(exported / SERVED / "model.onnx").run(["probabilities"], {"waveform": everything})
    for windows in range(1, 13):
        found = on_cuda.run(everything[:windows])
        assert found.shape == (windows, wanted.shape[1])
        np.testing.assert_allclose(found, wanted[:windows], atol=1e-5)  # what it is padded with is nobody's answer
    assert OnTheCpu.sizes == [1, 2, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12]


def test_the_half_precision_file_is_taken_where_there_is_one(exported: Path) -> None:
    """On the CPU here, since its answers are those of the other file wherever it runs."""
    artifact = Artifact.load(exported / SERVED, Runtime("cuda", lanes=2, threads=1, batch_windows=12).precision)
    if artifact.file.name != "model.fp16.onnx":
        pytest.skip(f"version {SERVED} has no fp16 file")
    runtime = Runtime("cpu", lanes=1, threads=1, batch_windows=4)
    windows = np.stack([voice(3.0, pitch_hz=80 + 9 * n, seed=n) for n in range(8)])
    half, full = (
        Session(artifact, runtime).run(windows),
        Session(Artifact.load(exported / SERVED), runtime).run(windows),
    )
    np.testing.assert_allclose(half, full, atol=0.02)
