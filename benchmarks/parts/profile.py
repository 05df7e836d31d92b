"""Where a request's processor time goes: what each thread of the running service took, shared out by py-spy's samples.

py-spy sees where a thread is and not whether it has a core: a thread that is ready and waits for one is sampled like
one that runs. So samples only share out what the kernel says that their own thread took.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

from benchmarks.bench import Bench, Json
from benchmarks.loops import closed_loop
from benchmarks.process import taken_s
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

NATIVE = "threads and processes without Python"
"""What took processor time and was in no line of Python: gRPC's own threads, those that ended, processes beside."""

# A thread whose innermost frame this is waits for work; py-spy takes the wait of a busy machine's thread for work.
_IDLE = ("_worker (concurrent/futures/thread.py",)
_THREAD = re.compile(r"thread \((\d+)\)(?:: (?P<name>.*))?")  # by the kernel's number; the frame that --threads adds
_NUMBER = re.compile(r"[-_ ]?\d+$")


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
                *("--rate", str(_RATE_HZ), "--duration", str(seconds), "--pid", str(server.process.pid), "--threads"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,  # a line is read without what follows
        )
        begun = spy.stdout.readline() if spy.stdout else b""  # it says when it begins to sample, which takes it a while
        whole_s, before = server.cpu_s(), threads_s(server.process.pid)
        load = closed_loop(bench.multipart(), _CLIENTS, seconds)
        whole_s, after = server.cpu_s() - whole_s, threads_s(server.process.pid)
        printed = (begun + spy.communicate(timeout=120)[0]).decode(errors="replace")
        if spy.returncode or not raw.exists():
            raise NotHereError(f"py-spy needs ptrace: {printed.strip().splitlines()[-1]}")
        samples = by_part(raw.read_text())
        names = thread_names(raw.read_text())
    took_s = {thread: taken - before.get(thread, 0.0) for thread, taken in after.items()}
    groups_s: dict[str, float] = defaultdict(float)
    for thread, taken in took_s.items():
        groups_s[names.get(thread, NATIVE)] += taken
    each_ms = 1e3 / max(1, load.all_requests)
    return {
        "load": load.to_json(),
        "samples": sum(counted.total() for counted in samples.values()),
        "server_cpu_ms_per_request": round(whole_s * each_ms, 3),
        "shares": {name: round(took / whole_s, 4) for name, took in shared_out(whole_s, took_s, samples).items()},
        "threads_ms": {name: round(taken * each_ms, 3) for name, taken in groups_s.items() if taken},
    }


def threads_s(pid: int) -> dict[int, float]:
    """Processor time of each thread of a process, seconds, by its number."""
    taken = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            taken[int(task.name)] = taken_s(task)
    return taken


def shared_out(whole_s: float, took_s: dict[int, float], samples: dict[int, Counter[str]]) -> dict[str, float]:
    """Processor time by part, seconds: each thread's own by its own samples, and what no sample was of as NATIVE."""
    parts = dict.fromkeys((*dict(PARTS), NATIVE), 0.0)
    for thread, counted in samples.items():
        for name, n in counted.items():
            parts[name] += took_s.get(thread, 0.0) * n / counted.total()
    parts[NATIVE] = max(0.0, whole_s - sum(parts.values()))
    return parts


def by_part(raw: str) -> dict[int, Counter[str]]:
    """py-spy's raw lines ("thread;frame;frame count", outermost first) of each thread by :data:`PARTS`.

    Idle threads are left out.
    """
    threads: dict[int, Counter[str]] = defaultdict(Counter)
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if (told := _THREAD.match(thread)) and frames and not any(place in frames[-1] for place in _IDLE):
            threads[int(told[1])][_part(frames)] += int(count)
    return dict(threads)


def thread_names(raw: str) -> dict[int, str]:
    """What Python calls the threads, without the number that tells those of one pool apart."""
    found = (_THREAD.match(line.split(";")[0]) for line in raw.splitlines())
    return {int(told[1]): _NUMBER.sub("", told["name"] or "unnamed") for told in found if told}


def _part(stack: list[str]) -> str:
    for frame in reversed(stack):
        for name, places in PARTS:
            if any(place in frame for place in places):
                return name
    return "other"
