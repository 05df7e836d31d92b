"""The designs that others take, each as its authors would write it, and how each is started."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.process import HOST, Server, clean_environment, free_port, serving

HERE = Path(__file__).parent


@contextmanager
def timbre(**settings: object) -> Iterator[Server]:
    """This service with one version, as ``make serve`` starts it."""
    port = free_port()
    env = clean_environment(**{"port": port, "grpc_port": free_port(), "drain_s": 0, **settings})
    with serving([sys.executable, "-m", "serving", "serve"], port, env) as server:
        yield server


@contextmanager
def classic() -> Iterator[Server]:
    """FastAPI, librosa's MFCC, a PyTorch CNN, one request at a time.

    On one thread, where it is three times as fast as with torch's own choice: threads that spin between two small
    products take the cores of the server and of who asks it.
    """
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "app:app", "--host", HOST, "--port", str(port), "--no-access-log"]
    with serving(command, port, clean_environment() | {"OMP_NUM_THREADS": "1"}, cwd=HERE / "classic") as server:
        yield server


PEERS: dict[str, Callable[[], AbstractContextManager[Server]]] = {"timbre": timbre, "classic": classic}
"""Who is measured, by name; the first is who the others are compared with."""
