"""Start and size: from start to ready, file cache cold and warm; memory at rest, after load, and its growth."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from benchmarks.bench import Bench, Json
from benchmarks.loops import closed_loop
from benchmarks.peers import EXPORTED, timbre
from benchmarks.process import ROOT
from benchmarks.target import MULTIPART, Target, total

REQUESTS = 10_000
"""After so many the memory has found its level; what it grows by from there is growth."""
_MORE = 1_000
_ROUNDS = 3
CACHES = ("cold", "warm", "warm")
"""What the kernel's cache is before each start."""
_CLIENTS = 16
_LOCKED = re.compile(r"^([A-Za-z0-9_.-]+)==", re.MULTILINE)


def measure(bench: Bench) -> Json:
    """Memory of the shared service after what it has answered so far and more; then fresh starts.

    In a run that is shortened, less than REQUESTS come before growth is measured, and the results say how many.

    Raises:
        NotHereError: its metrics are now one replica's, now another's.
    """
    target = bench.service()
    answered(target)  # before any load: raises where nobody can say
    idle_mb = bench.idle_mb
    most = bench.highest().per_second
    _until(target, bench, round(REQUESTS * min(1.0, bench.scale)), most)
    more = max(100, round(_MORE * min(1.0, bench.scale)))
    points = [(answered(target), target.resident_mb())]
    for _ in range(_ROUNDS):
        _until(target, bench, points[-1][0] + more, most)
        points.append((answered(target), target.resident_mb()))
    memory = {
        "idle_mb": idle_mb,
        "points": [{"requests": requests, "resident_mb": mb} for requests, mb in points],
        "after_mb": points[0][1],
        "growth_mb_per_1000": growth(points),
    }
    bench.say(
        f"memory {idle_mb:.0f} MB at rest, {points[0][1]:.0f} after {points[0][0]} requests, "
        f"{memory['growth_mb_per_1000']:+.2f} per 1,000 more"
    )
    return {"memory": memory, "start": None if bench.url else starts(bench)}


def answered(target: Target) -> int:
    """Requests that it has counted as answered."""
    return round(total(target.samples(), "timbre_requests_total", code="ok"))


def growth(points: list[tuple[int, float]]) -> float:
    """MB per 1,000 requests, by least squares over (requests, MB)."""
    requests, mb = np.array(points, dtype=float).T
    return round(float(np.polyfit(requests / 1e3, mb, 1)[0]), 3)


def starts(bench: Bench) -> list[Json]:
    """From the process's start to /readyz: first with the files out of the kernel's cache, then with them in it."""
    bench.stop()
    found = []
    forget_files()
    for cache in CACHES:
        with timbre() as server:
            found.append(
                {
                    "cache": cache,
                    "ready_s": server.ready_s,
                    "read_mb": server.read_mb(),
                    "idle_mb": server.resident_mb(),
                }
            )
        bench.say(f"{cache} start: ready after {found[-1]['ready_s']:.2f} s, {found[-1]['read_mb']:.0f} MB from disk")
    return found


def forget_files() -> None:
    """Ask the kernel to drop from its cache what the service reads: environment, code, models.

    What another process has mapped (this one's own libraries) stays; ``read_mb`` tells how cold it was.
    """
    for path in filter(Path.is_file, read_by_the_service()):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def read_by_the_service() -> Iterator[Path]:
    """Files of the standard library, of every locked package, of the service and of its models."""
    library = Path(os.__file__).parent
    yield from (path for path in library.rglob("*") if "site-packages" not in path.parts)
    for name in _LOCKED.findall((ROOT / "requirements" / "serving.txt").read_text()):
        with contextlib.suppress(PackageNotFoundError):  # of another platform
            yield from (Path(str(file.locate())) for file in distribution(name).files or ())
    yield from (path for folder in (ROOT / "serving", EXPORTED) for path in folder.rglob("*"))


def _until(target: Target, bench: Bench, requests: int, most: float) -> None:
    """Load until it has answered so many in all."""
    way = target.transports(bench.data)[MULTIPART]
    while (missing := requests - answered(target)) > 0:
        closed_loop(way, _CLIENTS, max(0.3, missing / most), warm_s=0.0)
