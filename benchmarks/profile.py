"""Where a request's time goes: py-spy's samples of the running service under load, by part of the way."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.load import closed_loop, multipart_request
from benchmarks.peers import timbre
from benchmarks.process import HOST
from benchmarks.record import write
from benchmarks.sounds import wav

_CLIENTS, _RATE_HZ = 8, 200

# The innermost frame that one of these is in says where a sample was. First match wins; a frame is "name (file:line)".
PARTS = (
    ("network and front end (ONNX Runtime)", ("serving/session.py", "onnxruntime/")),
    ("decoding", ("serving/audio.py", "serving/formats.py", "soundfile.py", "soxr/")),
    ("multipart", ("python_multipart/", "transports/body.py")),
    ("batching", ("serving/batcher.py",)),
    ("routing, feedback, metrics", ("serving/router.py", "serving/feedback.py", "itsdangerous/", "prometheus_client/")),
    ("answer: windows to clip to JSON", ("serving/aggregate.py", "pydantic/", "serving/schemas.py", "json/")),
    ("pipeline", ("serving/pipeline.py", "serving/shadow.py", "serving/registry.py")),
    ("HTTP: FastAPI and our transport", ("fastapi/", "starlette/", "transports/http.py")),
    ("HTTP: uvicorn", ("uvicorn/",)),
    ("event loop and sockets", ("asyncio/", "uvloop", "concurrent/", "threading.py", "serving/server.py", "serving/")),
)


# A thread whose innermost frame this is waits for work; py-spy takes the wait of a busy machine's thread for work.
_IDLE = ("_worker (concurrent/futures/thread.py",)


def profile(out: Path, seconds: int) -> dict[str, Any]:
    """Sample the service with its newest version under eight clients; write profile.json, .md and .png.

    Raises:
        RuntimeError: py-spy cannot look into the process (it needs ptrace: root, or its parent).
    """
    with timbre() as server, tempfile.TemporaryDirectory() as folder:
        request = multipart_request(wav(), f"{HOST}:{server.port}")
        closed_loop(HOST, server.port, request, _CLIENTS, 1)
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
        load = closed_loop(HOST, server.port, request, _CLIENTS, seconds)
        cpu_ms = (server.cpu_s() - before) / load.all_requests * 1e3
        printed = spy.communicate(timeout=120)[0]
        if spy.returncode or not raw.exists():
            raise RuntimeError(f"py-spy: {printed.decode(errors='replace')}")
        samples = by_part(raw.read_text())
    total = sum(samples.values())
    shares = {name: samples[name] / total for name, _ in PARTS} | {"other": samples["other"] / total}
    results = {
        "load": load.to_json(),
        "samples": total,
        "server_cpu_ms_per_request": round(cpu_ms, 3),
        "shares": {name: round(share, 4) for name, share in shares.items()},
    }
    write(out / "profile.json", results)
    plot(shares, cpu_ms, out / "profile.png")
    (out / "profile.md").write_text(table(shares, cpu_ms))
    return results


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


def table(shares: dict[str, float], cpu_ms: float) -> str:
    """Markdown, dearest first."""
    rows = sorted(shares.items(), key=lambda item: -item[1])
    return "| part | share | ms |\n|---|---|---|\n" + "".join(
        f"| {name} | {share:.1%} | {share * cpu_ms:.2f} |\n" for name, share in rows
    )


def plot(shares: dict[str, float], cpu_ms: float, path: Path) -> None:
    """Milliseconds of processor time per request, by part."""
    rows = sorted(shares.items(), key=lambda item: item[1])
    figure = Figure(figsize=(8, 0.4 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([name for name, _ in rows], [share * cpu_ms for _, share in rows])
    axes.bar_label(bars, [f" {share:.0%}" for _, share in rows], fontsize=8)
    axes.set(xlabel="processor time per request, ms")
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
