"""A real service process for the tests: started as users start it, asked over real sockets, stopped by a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import httpx

from tests.conftest import ROOT

_START_TIMEOUT_S = 180  # of a machine that does much else


@dataclass
class Service:
    """A running ``python -m serving serve``."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    grpc: str = ""
    """Address of the gRPC port."""

    def resident_bytes(self) -> int:
        """Memory of the process and its children, as the kernel counts it."""
        pages = 0
        for pid in [self.process.pid, *children(self.process.pid)]:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def connect(self) -> socket.socket:
        """A connection on which a test sends what no client library would."""
        return socket.create_connection(self.address, timeout=30)

    def connect_grpc(self) -> socket.socket:
        """The same to the gRPC port."""
        host, port = self.grpc.split(":")
        return socket.create_connection((host, int(port)), timeout=60)

    @property
    def address(self) -> tuple[str, int]:
        """Of the HTTP port."""
        host, port = self.url.split("//")[1].split(":")
        return host, int(port)

    def listen_url(self, **query: object) -> str:
        """Where a live stream is opened."""
        return f"{self.url.replace('http', 'ws', 1)}/v1/listen?{urlencode(query)}"

    def peak_bytes(self) -> int:
        """Most memory that the process has ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])

    def stop(self) -> int:
        """SIGTERM, then the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(**settings: str | float | Path) -> dict[str, str]:
    """The environment with only these TIMBRE_ settings; no gRPC port unless one is given, so that none is shared."""
    settings = {"grpc_port": 0, **settings}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIMBRE_")}
    return clean | {f"TIMBRE_{name.upper()}": str(value) for name, value in settings.items()}


@contextmanager
def running(log_file: Path, python: str = sys.executable, **settings: str | float | Path) -> Iterator[Service]:
    """Start the service on a free port, wait until it is ready, stop it afterwards."""
    ports = {"port": free_port(), "grpc_port": free_port()}
    service = start_process(log_file, environment(**{**ports, "drain_s": 0, **settings}), python)
    try:
        wait_until_ready(service)
        yield service
    finally:
        if service.process.poll() is None and service.stop() != 0:
            raise RuntimeError(f"the service did not stop cleanly:\n{log_file.read_text()}")


def start_process(
    log: Path,
    env: dict[str, str],
    python: str = sys.executable,
    prefix: Sequence[str] = (),
    limits: Callable[[], None] | None = None,
) -> Service:
    """The process, not waited for.

    Args:
        prefix: a command that runs the rest as its arguments.
        limits: called in the process before it is the service.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*prefix, python, "-m", "serving", "serve"],
            cwd=ROOT,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=limits,  # noqa: PLW1509 - sets a limit, takes no lock
        )
    port, grpc_port = env["TIMBRE_PORT"], env.get("TIMBRE_GRPC_PORT")
    scheme = "https" if env.get("TIMBRE_TLS_CERT") else "http"
    return Service(process, f"{scheme}://127.0.0.1:{port}", log, f"127.0.0.1:{grpc_port}")


def refusal(**settings: str | float | Path) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail."""
    return subprocess.run(
        [sys.executable, "-m", "serving", "serve"],
        cwd=ROOT,
        env=environment(**{"port": free_port(), "grpc_port": free_port(), **settings}),
        capture_output=True,
        text=True,
        timeout=_START_TIMEOUT_S,
        check=False,
    )


def wait_until_ready(service: Service, seconds: float = _START_TIMEOUT_S) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            break
        try:
            if httpx.get(f"{service.url}/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the service did not become ready:\n{service.log.read_text()}")


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    """Sum of the samples of a metric that have these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    rows = client.get("/metrics").text.splitlines()
    return sum(
        float(row.rsplit(" ", 1)[1])
        for row in rows
        if row.split("{")[0].split(" ")[0] == name and all(label in row for label in wanted)
    )


def until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether it comes true in time, which is long: a machine that does much else may stand still for seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def children(pid: int) -> list[int]:
    """Of all its threads, and theirs; those that end while they are looked for are none."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_text().split())
    return found + [grand for child in found for grand in children(child)]
