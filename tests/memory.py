"""How much memory something takes of this process, as the kernel counts it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def taking(call: Callable[[], T]) -> tuple[T, int]:
    """What the call gives back, and by how many bytes the process was larger at its largest.

    What the process had to spare is given back before, so that it is not hidden there.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
    before = _status("VmRSS")
    result = call()
    return result, _status("VmHWM") - before


def _status(name: str) -> int:
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])
