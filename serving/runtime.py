"""What a forward pass runs on: the CPU cores that this container may use, or CUDA."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnxruntime

from serving.errors import RuntimeUnavailable
from serving.quota import cores_of_each

Device = Literal["cpu", "cuda"]
_CUDA = "CUDAExecutionProvider"
_DEVICES = ("nvidia[0-9]*", "dxg")  # of Linux, and of Linux inside Windows


@dataclass(frozen=True)
class Runtime:
    """Where and how passes run.

    Attributes:
        device: "cpu" or "cuda".
        lanes: passes at a time.
        threads: CPU threads inside one pass; lanes * threads is what the machine has.
        batch_windows: most windows of one pass.
        note: why it is not what was asked for; empty where it is.
    """

    device: Device
    lanes: int
    threads: int
    batch_windows: int
    note: str = ""

    @property
    def providers(self) -> list[str]:
        """ONNX Runtime's names, the first preferred."""
        return [_CUDA, "CPUExecutionProvider"] if self.device == "cuda" else ["CPUExecutionProvider"]

    @property
    def precision(self) -> str:
        """Which of a version's files suits the device."""
        return "fp16" if self.device == "cuda" else "fp32"

    @property
    def batch_sizes(self) -> list[int]:
        """Sizes that are run once before the first request: powers of two up to the largest batch."""
        return [size for size in (2**n for n in range(12)) if size < self.batch_windows] + [self.batch_windows]

    def padded_size(self, windows: int) -> int:
        """How many windows a pass with so many has: on CUDA the next size that was warmed up.

        There, memory and kernels are chosen when a size comes for the first time, which takes many times as long as the
        pass itself; a CPU pays for each window and gains nothing.
        """
        if self.device == "cpu":
            return windows
        return next((size for size in self.batch_sizes if size >= windows), windows)


def choose_runtime(
    wanted: Literal["auto", "cpu", "cuda"], threads: int, batch_windows: int, workers: int = 1
) -> Runtime:
    """The runtime that the settings ask for, or the best there is.

    Args:
        threads: CPU threads inside one pass; 0 for one. On a CPU several passes side by side use the cores better than
            one that is split, so the rest of the cores become lanes.
        batch_windows: most windows of one pass; 0 for what suits the device: 4 on a CPU, where a window costs the same
            in any company and more would only hold up who comes next, 64 on CUDA.
        workers: processes that share the machine.

    Raises:
        RuntimeUnavailable: CUDA is asked for and cannot be used; the message says what is missing.
    """
    missing = "" if wanted == "cpu" else _missing_for_cuda()
    if wanted == "cuda" and missing:
        raise RuntimeUnavailable(f"TIMBRE_RUNTIME is cuda, but {missing}. Set it to auto or cpu to run without.")
    if wanted != "cpu" and not missing:
        # Two lanes, so that the next batch is on its way while one is computed.
        return Runtime("cuda", lanes=2, threads=threads or 1, batch_windows=batch_windows or 64)
    note = f"no CUDA: {missing}" if missing else ""
    ours = cores_of_each(workers)
    inside = min(threads or 1, ours)
    return Runtime("cpu", ours // inside, inside, batch_windows or 4, note)


def fall_back(threads: int, batch_windows: int, workers: int, why: str) -> Runtime:
    """The CPU, because CUDA turned out not to work."""
    return dataclasses.replace(choose_runtime("cpu", threads, batch_windows, workers), note=f"no CUDA: {why}")


def _missing_for_cuda() -> str:
    """What keeps CUDA from being used; empty where nothing does."""
    if _CUDA not in onnxruntime.get_available_providers():
        return "this onnxruntime is built without CUDA (install requirements/serving-cuda.txt in place of serving.txt)"
    if not any(any(Path("/dev").glob(device)) for device in _DEVICES):
        return "there is no NVIDIA device (/dev/nvidia0, /dev/dxg) in this container"
    return ""
