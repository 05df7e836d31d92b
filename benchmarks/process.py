"""Servers as real processes: started, waited for, weighed, stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
_START_S, _STOP_S = 300.0, 60.0
_FOLDERS = re.compile(r"(?:/[^/\s\"']+)+/(?=site-packages/|benchmarks/)")


@dataclass(frozen=True)
class Server:
    """A process that answers HTTP.

    Attributes:
        ready_s: from start to the first 200 of its readiness path.
        grpc_port: 0 where it has none.
        log: what it prints; None where nobody keeps that.
    """

    process: subprocess.Popen[bytes]
    port: int
    ready_s: float
    grpc_port: int = 0
    log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def printed(self, most: int = 1000) -> str:
        """The end of what it has printed so far, so many bytes at most, without folders that only this machine has."""
        if self.log is None:
            return ""
        file = self.log.fileno()  # it writes where the file stands, so that is left as it is
        end = os.pread(file, most, max(0, os.fstat(file).st_size - most)).decode(errors="replace")
        return _FOLDERS.sub("", end)

    def read_mb(self) -> float:
        """What the process and its children had to fetch from the disk, not from the kernel's cache."""
        told = (Path(f"/proc/{pid}/io").read_text() for pid in self._family(self.process.pid))
        return round(sum(int(text.split("\nread_bytes:")[1].split()[0]) for text in told) / 1e6, 1)

    def resident_mb(self) -> float:
        """Memory of the process and its children, what several of them share counted once.

        Of memory that is nobody's file each has its share (Pss): only a family shares that. Files, libraries above all,
        count as what the process has of them that has most: shares of those would take off what processes of others,
        the load generator's too, have mapped as well, and so make whoever has their libraries lighter.
        """
        own_kb, files_kb = 0, dict[str, int]()
        for pid in self._family(self.process.pid):
            own_kb += _anonymous_kb(pid)
            for file, kb in _mapped_kb(pid).items():
                files_kb[file] = max(kb, files_kb.get(file, 0))
        return round((own_kb + sum(files_kb.values())) * 1024 / 1e6, 1)

    def cpu_s(self) -> float:
        """Processor time that it and its children have taken."""
        return sum(taken_s(Path(f"/proc/{pid}")) for pid in self._family(self.process.pid))

    def _family(self, pid: int) -> list[int]:
        listed = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
        return [pid, *(one for child in listed for one in self._family(child))]


def taken_s(task: Path) -> float:
    """Processor time of a process or a thread by its folder in /proc, seconds: utime and stime of proc_pid_stat(5)."""
    fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _anonymous_kb(pid: int) -> int:
    """A process's share of its memory that is no file's, kB, of proc_pid_smaps(5)."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(told.split("\nPss_Anon:")[1].split()[0])


def _mapped_kb(pid: int) -> dict[str, int]:
    """What a process has in memory of each file, shared memory too, kB; without its own copies of changed pages."""
    found: Counter[str] = Counter()
    file = ""  # by device and inode
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *words = line.split()
        if name == "Rss:":
            found[file] += int(words[0])
        elif name == "Anonymous:":
            found[file] -= int(words[0])
        elif not name.endswith(":"):  # the head of a mapping: addresses, rights, offset, device, inode, name
            file = " ".join(words[2:4])
    return found


def _children(task: Path) -> list[int]:
    """Of one thread; none where it has just ended."""
    try:
        return list(map(int, (task / "children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(
    command: Sequence[str],
    port: int,
    env: dict[str, str],
    ready: str = "/readyz",
    cwd: Path = ROOT,
    *,
    grpc_port: int = 0,
    cores: set[int] | None = None,
) -> Iterator[Server]:
    """Start a command that listens on the port, wait until it is ready, stop it afterwards.

    Args:
        cores: those it may use; all of this process's where None.

    Raises:
        RuntimeError: it stops or is not ready in time; what it printed is in the message.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:  # not a pipe, which nobody would empty
        with bound_to(cores):
            process = subprocess.Popen(
                command, cwd=cwd, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            wait_until_ready(process, f"http://{HOST}:{port}{ready}", log)
            yield Server(process, port, round(time.monotonic() - started, 2), grpc_port, log)
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to one that does not go, and to workers of its that stayed: the next has the cores alone."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # of the session that it began


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    """Return when the address answers well.

    Raises:
        RuntimeError: the process ended or is not ready in time; what it printed is in the message.
    """
    deadline = time.monotonic() + _START_S
    while not _is_ready(url):
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            printed = log.read().decode(errors="replace")
            why = (
                f"ended with {process.returncode}" if process.poll() is not None else f"is not ready in {_START_S:g} s"
            )
            raise RuntimeError(f"{process.args!r} {why}:\n{printed}")
        time.sleep(0.02)


@contextmanager
def bound_to(cores: set[int] | None) -> Iterator[None]:
    """This thread, and what it starts meanwhile, may use these cores only; all that it may where None."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def clean_environment(**settings: object) -> dict[str, str]:
    """The environment with only these TIMBRE_ settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIMBRE_")}
    return clean | {f"TIMBRE_{name.upper()}": str(value) for name, value in settings.items()}


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False
