"""Servers as real processes: started, waited for, weighed, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
_START_S = 120.0


@dataclass(frozen=True)
class Server:
    """A process that answers HTTP.

    Attributes:
        ready_s: from start to the first 200 of its readiness path.
    """

    process: subprocess.Popen[bytes]
    port: int
    ready_s: float

    def resident_mb(self) -> float:
        """Memory of the process and its children."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._family(self.process.pid))
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)

    def cpu_s(self) -> float:
        """Processor time that it and its children have taken."""
        ticks = 0
        for pid in self._family(self.process.pid):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime of proc(5)
        return ticks / os.sysconf("SC_CLK_TCK")

    def _family(self, pid: int) -> list[int]:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(one for child in listed for one in self._family(int(child)))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(
    command: Sequence[str], port: int, env: dict[str, str], ready: str = "/readyz", cwd: Path = ROOT
) -> Iterator[Server]:
    """Start a command that listens on the port, wait until it is ready, stop it afterwards.

    Raises:
        RuntimeError: it stops or is not ready in time; what it printed is in the message.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:  # not a pipe, which nobody would empty
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            while not _is_ready(f"http://{HOST}:{port}{ready}"):
                if process.poll() is not None or time.monotonic() - started > _START_S:
                    log.seek(0)
                    printed = log.read().decode(errors="replace")
                    raise RuntimeError(f"{' '.join(command)} is not ready after {_START_S:g} s:\n{printed}")
                time.sleep(0.02)
            yield Server(process, port, round(time.monotonic() - started, 2))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def clean_environment(**settings: object) -> dict[str, str]:
    """The environment with only these TIMBRE_ settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIMBRE_")}
    return clean | {f"TIMBRE_{name.upper()}": str(value) for name, value in settings.items()}


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False
