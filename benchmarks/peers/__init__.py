"""The designs that others take, each as its authors would write it, and how each is started and asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.load import Transport
from benchmarks.peers import environments
from benchmarks.process import HOST, ROOT, Server, clean_environment, free_port, serving
from benchmarks.transports import multipart, oip_json
from serving.quota import cores
from serving.router import ROUTES_FILE, Routes

HERE = Path(__file__).parent
EXPORTED = ROOT / "exported"


@contextmanager
def timbre(bound_to: set[int] | None = None, /, **settings: object) -> Iterator[Server]:
    """This service, as ``make serve`` starts it, with these settings."""
    port = free_port()
    settings = {"port": port, "grpc_port": free_port(), "drain_s": 0, **settings}
    env, grpc_port = clean_environment(**settings), int(str(settings["grpc_port"]))
    command = [sys.executable, "-m", "serving", "serve"]
    with serving(command, port, env, grpc_port=grpc_port, cores=bound_to) as server:
        yield server


@dataclass(frozen=True)
class Peer:
    """One of those who are measured.

    Attributes:
        start: its process, in its own environment; settings are environment variables on top.
        ask: a way to send it clips.
        choices: settings of which nobody can say beforehand which are the best for it; the best are found out.
        why_missing: says why it cannot be started here; empty where it can.
    """

    what: str
    start: Callable[..., AbstractContextManager[Server]]
    ask: Callable[[str, Sequence[bytes]], Transport]
    why_missing: Callable[[], str] = lambda: ""
    choices: dict[str, dict[str, str]] = field(default_factory=dict)


def _peer(
    name: str,
    what: str,
    command: Callable[[int], list[str]],
    ask: Callable[[str, Sequence[bytes]], Transport] = multipart,
    ready: str = "/readyz",
    extra: Callable[[int], dict[str, str]] = lambda _: {},
    choices: dict[str, dict[str, str]] | None = None,
) -> Peer:
    """A program in the folder of that name, with its own environment; ``command`` begins with one of its programs."""

    @contextmanager
    def start(**settings: str) -> Iterator[Server]:
        port = free_port()
        version = Routes.parse((EXPORTED / ROUTES_FILE).read_text(), EXPORTED / ROUTES_FILE).default_version
        paths = {"PYTHONPATH": f"{HERE}{os.pathsep}{HERE / name}", "MODEL": str(EXPORTED / version)}
        program, *arguments = command(port)
        full = [str(environments.python(name).with_name(program)), *arguments]
        env = clean_environment() | paths | extra(port) | settings
        with serving(full, port, env, ready, cwd=HERE / name) as server:
            yield server

    return Peer(what, start, ask, lambda: environments.why_missing(name), choices or {})


def _uvicorn(app: str) -> Callable[[int], list[str]]:
    return lambda port: ["uvicorn", app, "--host", HOST, "--port", str(port), "--no-access-log"]


def _of_mlserver(port: int) -> dict[str, str]:
    settings = {
        "HOST": HOST,
        "HTTP_PORT": port,
        "GRPC_PORT": free_port(),
        "METRICS_PORT": free_port(),
        "METRICS_DIR": environments.FOLDER / "mlserver_onnx" / "metrics",
        "PARALLEL_WORKERS": cores(),
        "DEBUG": "false",
    }
    return {f"MLSERVER_{name}": str(value) for name, value in settings.items()}


PEERS: dict[str, Peer] = {
    "timbre": Peer("this service", timbre, multipart),
    "classic": _peer(
        "classic",
        "FastAPI, librosa's MFCC, a PyTorch CNN, one request at a time",
        _uvicorn("app:app"),
        # All cores are faster for who is alone; or threads that spin between two small products take the cores of the
        # server and of who asks it.
        choices={"torch's own threads": {}, "one thread": {"OMP_NUM_THREADS": "1"}},
    ),
    "fastapi_onnx": _peer("fastapi_onnx", "FastAPI with our ONNX file, no batching", _uvicorn("api:app")),
    "bentoml_plain": _peer(
        "bentoml_plain",
        "BentoML as its documentation shows it: gateway service, depends, batchable API, our ONNX file",
        lambda port: ["bentoml", "serve", "service:Gateway", "--host", HOST, "--port", str(port)],
        extra=lambda _: {"BENTOML_DO_NOT_TRACK": "True"},
    ),
    "litserve_onnx": _peer(
        "litserve_onnx",
        "LitServe with our ONNX file, batching",
        lambda port: ["python", "server.py", str(port)],
        ready="/health",
    ),
    "mlserver_onnx": _peer(
        "mlserver_onnx",
        "MLServer with a custom runtime over our ONNX file, adaptive batching",
        lambda _: ["mlserver", "start", "."],
        ask=partial(oip_json, model="timbre"),
        ready="/v2/models/timbre/ready",
        extra=_of_mlserver,
    ),
}
"""Who is measured, by name; the first is who the others are compared with."""

_LESS_DONE = (
    "it does less for a request: no limits, no check of the samples, no timeline, no metrics, no deadline, no permits"
)
_MORE_PROCESSES = f"it decodes in a process per core, which we leave to replicas and `TIMBRE_WORKERS`; {_LESS_DONE}"
_LESS_LOADED = "it loads one model, and no gRPC, no second audio library and no metrics"

WHY_BETTER: dict[tuple[str, str], str] = {
    ("fastapi_onnx", "per_second"): _LESS_DONE,
    ("fastapi_onnx", "crowd"): _LESS_DONE,
    ("fastapi_onnx", "alone"): _LESS_DONE,
    ("fastapi_onnx", "p50"): _LESS_DONE,
    ("fastapi_onnx", "p99"): _LESS_DONE,
    ("fastapi_onnx", "memory"): _LESS_LOADED,
    ("litserve_onnx", "per_second"): _MORE_PROCESSES,
    ("litserve_onnx", "crowd"): _MORE_PROCESSES,
    ("litserve_onnx", "alone"): _LESS_DONE,
    ("litserve_onnx", "p50"): _LESS_DONE,
    ("litserve_onnx", "p99"): _MORE_PROCESSES,
    ("mlserver_onnx", "per_second"): _MORE_PROCESSES,
    ("mlserver_onnx", "crowd"): _MORE_PROCESSES,
    ("mlserver_onnx", "alone"): _LESS_DONE,
    ("mlserver_onnx", "p50"): _LESS_DONE,
    ("mlserver_onnx", "p99"): _MORE_PROCESSES,
}
"""Why a peer is better than this service in a measure, for README; a run that finds another case has to say why."""

WHY_FAILED: dict[tuple[str, str], str] = {
    ("bentoml_plain", "http_500"): (
        "its gateway changes its session with the model service after every 100 calls and closes the old one under the "
        "calls that are still out on it; none fails where `runner_connection.max_requests` is a million, which its "
        "documentation's examples do not set"
    ),
}
"""Why requests of a peer end in a way that is no good answer, where that was found out."""
