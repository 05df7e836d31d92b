"""Where a request's time goes: py-spy's samples of the running service under load, by part of the way."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.bench import Bench, Json
from benchmarks.loops import closed_loop
from benchmarks.target import NotHereError

_CLIENTS, _RATE_HZ, _LOAD_S = 8, 200, 6.0

# The innermost frame that one of these is in says where a sample was. First match wins; a frame is "name (file:line)".
PARTS = (
    ("network and front end (ONNX Runtime)", ("serving/session.py", "onnxruntime/")),
    ("decoding", ("serving/audio.py", "serving/formats.py", "serving/isolated.py", "soundfile.py", "soxr/")),
    ("multipart", ("python_multipart/", "transports/body.py")),
    ("batching", ("serving/batcher.py", "serving/batches.py", "serving/learned.py")),
    (
        "routing, feedback, metrics",
        ("serving/router.py", "serving/feedback.py", "serving/metrics.py", "itsdangerous/", "prometheus_client/"),
    ),
    ("answer: windows to clip to JSON", ("serving/aggregate.py", "pydantic/", "serving/schemas.py", "json/")),
    ("pipeline", ("serving/pipeline.py", "serving/shadow.py", "serving/registry.py", "serving/tracing.py")),
    (
        "HTTP: FastAPI and our transport",
        (
            *("fastapi/", "starlette/", "serving/transports/"),
            *("serving/connection.py", "serving/places.py", "serving/room.py"),
        ),
    ),
    ("HTTP: uvicorn", ("uvicorn/",)),
    ("event loop and sockets", ("asyncio/", "uvloop", "concurrent/", "threading.py", "serving/server.py")),
    ("other", ("serving/",)),  # what of ours is no row's, before an outer frame of the event loop claims it
)


# A thread whose innermost frame this is waits for work; py-spy takes the wait of a busy machine's thread for work.
_IDLE = ("_worker (concurrent/futures/thread.py",)


def measure(bench: Bench) -> Json:
    """Sample the service under eight clients: processor time of a request, shared out.

    Raises:
        NotHereError: a service elsewhere is measured, or py-spy may not look into processes here.
    """
    if bench.url:
        raise NotHereError("py-spy looks into processes of this machine only")
    target, seconds = bench.service(), max(2, round(bench.seconds(_LOAD_S)))
    server = target.server
    if server is None:
        raise NotHereError("the service is not this machine's")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.txt"
        spy = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("py-spy")), "record", "--format", "raw", "--output", str(raw)),
                *("--rate", str(_RATE_HZ), "--duration", str(seconds), "--pid", str(server.process.pid)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        before = server.cpu_s()
        load = closed_loop(bench.multipart(), _CLIENTS, seconds)
        cpu_ms = (server.cpu_s() - before) / max(1, load.all_requests) * 1e3
        printed = spy.communicate(timeout=120)[0].decode(errors="replace")
        if spy.returncode or not raw.exists():
            raise NotHereError(f"py-spy needs ptrace: {printed.strip().splitlines()[-1]}")
        samples = by_part(raw.read_text())
    counted = samples.total()
    shares = {name: samples[name] / counted for name, _ in PARTS}
    return {
        "load": load.to_json(),
        "samples": counted,
        "server_cpu_ms_per_request": round(cpu_ms, 3),
        "shares": {name: round(share, 4) for name, share in shares.items()},
    }


def by_part(raw: str) -> Counter[str]:
    """py-spy's raw lines ("frame;frame;frame count", outermost first) by :data:`PARTS`; idle threads are left out."""
    counted: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if not any(place in frames[-1] for place in _IDLE):
            counted[_part(frames)] += int(count)
    return counted


def _part(stack: list[str]) -> str:
    for frame in reversed(stack):
        for name, places in PARTS:
            if any(place in frame for place in places):
                return name
    return "other"
