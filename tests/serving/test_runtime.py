from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from serving import quota as quotas
from serving import runtime
from serving.errors import RuntimeUnavailable
from serving.isolated import most_decoders
from serving.parts import Parts
from serving.quota import cores, cpu_quota
from serving.runtime import choose_runtime
from serving.settings import Settings


def test_the_quota_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path) is None


def test_the_quota_of_an_older_kernel(tmp_path: Path) -> None:
    old = tmp_path / "cpu"
    old.mkdir()
    (old / "cpu.cfs_period_us").write_text("100000\n")
    (old / "cpu.cfs_quota_us").write_text("200000\n")
    assert cpu_quota(tmp_path) == 2
    (old / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(tmp_path) is None


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (2.0, 2), (1.5, 2), (0.2, 1), (64.0, 8)])
def test_cores_are_those_of_the_container_not_of_the_host(
    quota: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(quotas, "cpu_quota", lambda: quota)
    assert cores() == expected
    for threads in (0, 1, 2, 100):
        chosen = choose_runtime("cpu", threads, 0)
        assert chosen.lanes * chosen.threads <= expected
        for workers in (2, 3, 64):
            chosen = choose_runtime("cpu", threads, 0, workers)
            assert chosen.lanes >= 1
            assert workers * chosen.lanes * chosen.threads <= max(expected, workers)
    assert most_decoders() == min(4, expected)


def test_a_cpu_is_what_auto_falls_back_to_and_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    chosen = choose_runtime("auto", 0, 0)
    assert chosen.device == "cpu"
    assert "built without CUDA" in chosen.note
    assert choose_runtime("cpu", 0, 0).note == ""


def test_cuda_without_what_it_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeUnavailable, match=r"built without CUDA.*serving-cuda\.txt"):
        choose_runtime("cuda", 0, 0)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    with pytest.raises(RuntimeUnavailable, match="no NVIDIA device"):
        choose_runtime("cuda", 0, 0)


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, session: Callable[..., object]) -> None:
    """As where there is a device and a build for it; sessions are what this one makes."""
    monkeypatch.setattr(runtime, "_missing_for_cuda", lambda: "")
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)


@pytest.fixture
def failing_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA that loads a model and fails at its first pass, as where another process has the memory."""
    session = onnxruntime.InferenceSession

    class Failing:
        def __init__(self, model: bytes, options: onnxruntime.SessionOptions, providers: list[str]) -> None:
            self._cuda = providers[0] == "CUDAExecutionProvider"
            self._real = session(model, options, providers=["CPUExecutionProvider"])

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"] if self._cuda else self._real.get_providers()

        def io_binding(self) -> object:
            raise RuntimeError("CUDA failure 2: out of memory")

    pretend_cuda(monkeypatch, Failing)


@pytest.mark.usefixtures("failing_cuda")
def test_cuda_that_fails_at_its_first_pass_is_the_device_s_fault_and_auto_does_without(exported: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"CUDA cannot be used: .*out of memory"):
        Parts.build(Settings(models=exported, runtime="cuda"))
    parts = Parts.build(Settings(models=exported, runtime="auto"))
    assert parts.registry.told().device == "cpu"
    assert "out of memory" in parts.registry.told().note
    asyncio.run(parts.pipeline.close())


@pytest.fixture
def broken_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device and a build for it, but libraries that do not load: ONNX Runtime then goes on without, and logs why."""
    session = onnxruntime.InferenceSession

    def without_cuda(model: bytes, options: onnxruntime.SessionOptions, **_: object) -> onnxruntime.InferenceSession:
        return session(model, options, providers=["CPUExecutionProvider"])

    pretend_cuda(monkeypatch, without_cuda)


@pytest.mark.usefixtures("broken_cuda")
def test_cuda_that_does_not_load_is_refused_where_it_is_asked_for(exported: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="CUDA cannot be used: ONNX Runtime fell back to CPUExecutionProvider"):
        Parts.build(Settings(models=exported, runtime="cuda"))


@pytest.mark.usefixtures("broken_cuda")
def test_auto_falls_back_from_cuda_that_does_not_load_and_says_why(exported: Path) -> None:
    parts = Parts.build(Settings(models=exported, runtime="auto"))
    told = parts.registry.told()
    assert told.device == "cpu"
    assert told.note.startswith("no CUDA: CUDA cannot be used: ONNX Runtime fell back")
    assert {model.device for model in told.models} == {"cpu"}
    assert b"timbre_runtime_fallback 1.0" in parts.metrics.exposition()
    asyncio.run(parts.pipeline.close())


def test_warm_up_sizes_reach_the_largest_batch() -> None:
    assert choose_runtime("cpu", 1, 6).batch_sizes == [1, 2, 4, 6]
    assert choose_runtime("cpu", 1, 1).batch_sizes == [1]
