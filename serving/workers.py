"""Several processes behind one port, for a big machine without Kubernetes: start, restart, stop.

Each worker is this program again, with the listening socket handed down; the kernel gives each connection to one. What
they count lies in files of a common folder, so that any of them answers ``/metrics`` for all.

While a worker is ready, no other takes a connection before it is: it loads first. Where none is ready, one alone starts
and answers meanwhile that it is starting, so that nobody is told so who could have been answered.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.logs import log_to_stderr
from serving.metrics import MULTIPROCESS_DIR
from serving.server import check_grpc_port, listen, run
from serving.settings import PREFIX, Settings
from serving.tallies import reserve, settle
from serving.tls import tls_context

logger = logging.getLogger("timbre")

_LOAD_FIRST = "--load-first"  # option of a worker that takes no connection before it can answer
_LOOK_S = 0.1
# Between restarts of one worker, twice as long each time that it dies without having been ready: a fault at start shall
# not burn the machine.
_RESTART_S, _LONGEST_RESTART_S = 1.0, 30.0


def run_workers(settings: Settings, command: Sequence[str] = (sys.executable, "-m", "serving", "worker")) -> int:
    """Answer with ``settings.workers`` processes until told to stop.

    Args:
        command: starts one worker; see :func:`run_worker` for what is appended.

    Returns:
        The exit status: 0, or that of the very first worker where it could not start. It has said why.

    Raises:
        AddressError: a port is taken, or the address is not this machine's.
        SettingsError: the TLS files are not what they should be.
    """
    log_to_stderr(settings.log)
    tls_context(settings)  # once here, so that it is told once and not by each worker
    check_grpc_port(settings)
    with listen(settings) as door, tempfile.TemporaryDirectory(prefix="timbre-workers-") as folder:
        # Workers of one replica must read each other's request ids.
        secret = settings.secret.get_secret_value() or secrets.token_hex(32)
        environment = os.environ | {MULTIPROCESS_DIR: folder, f"{PREFIX}SECRET": secret}
        return _Workers([_Worker(command, door, environment) for _ in range(settings.workers)], door).run()


def run_worker(settings: Settings, door: int, link: int, *, load_first: bool) -> None:
    """Be one of the processes.

    Args:
        door: number of the inherited socket that listens.
        link: number of the inherited socket whose other end :func:`run_workers` holds. It is told when the models are
            loaded; when it is closed nobody is left to stop this process, which then stops by itself.
        load_first: load before the first connection is taken.

    Raises:
        TimbreError: see :func:`serving.server.run`.
    """
    reserve(Path(os.environ[MULTIPROCESS_DIR]))
    to_parent = socket.socket(fileno=link)

    def loaded() -> None:
        with contextlib.suppress(OSError):  # nobody is there any more
            to_parent.send(b"+")

    def stop_with_parent() -> None:
        with contextlib.suppress(OSError):  # reset, where it had not heard yet that the models are loaded
            to_parent.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_with_parent, daemon=True).start()
    run(settings, socket.socket(fileno=door), load_first=load_first, loaded=loaded)


class _Worker:
    """One place for a process: who is in it, whether that one is ready, and when the next may be started."""

    def __init__(self, command: Sequence[str], door: socket.socket, environment: Mapping[str, str]) -> None:
        self._command, self._door, self._environment = command, door, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._failures = 0
        self._start_at = 0.0
        self.ready = False
        self.status = 0
        """How the last one ended."""

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def may_start(self) -> bool:
        return self._process is None and time.monotonic() >= self._start_at

    def start(self, *, load_first: bool) -> None:
        self._link, link = socket.socketpair()
        self._link.setblocking(False)
        numbers = [self._door.fileno(), link.fileno()]
        options = [_LOAD_FIRST] if load_first else []
        with link:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*self._command, *map(str, numbers), *options],
                env=self._environment,
                stderr=sys.stderr,  # descriptor 2 is a pipe into our log, for C libraries: a few lines a minute, cut
                pass_fds=numbers,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def look(self) -> int | None:
        """Hear whether it is ready; the process's number where it has ended since the last look."""
        if self._process is None or self._link is None:
            return None
        with contextlib.suppress(OSError):
            self.ready = self.ready or self._link.recv(1) != b""
        pid, status = self._process.pid, self._process.poll()
        if status is None:
            return None
        self._failures = 0 if self.ready else self._failures + 1
        self._start_at = time.monotonic() + min(_RESTART_S * 2**self._failures, _LONGEST_RESTART_S)
        self._link.close()
        self._process, self._link, self.ready, self.status = None, None, False, status
        settle(Path(self._environment[MULTIPROCESS_DIR]), pid)
        return pid


class _Workers:
    """The processes, each replaced when it dies, until a signal tells to stop."""

    def __init__(self, workers: Sequence[_Worker], door: socket.socket) -> None:
        self._workers, self._door = workers, door
        self._been_ready = self._stopping = False
        self._signals: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda came, _: self._signals.append(came))

    def run(self) -> int:
        """Until every worker has stopped after a signal, or the very first could not start; the exit status."""
        while True:
            if not self._stopping:
                self._fill()
            time.sleep(_LOOK_S)
            self._pass_signals_on()
            self._look()
            if self._nobody_runs and self._stopping:
                return 0
            if self._nobody_runs and not self._been_ready:
                return max(1, self._workers[0].status)  # below 0 where a signal ended it

    @property
    def _nobody_runs(self) -> bool:
        return not any(worker.running for worker in self._workers)

    @property
    def _somebody_is_ready(self) -> bool:
        return any(worker.ready for worker in self._workers)

    def _fill(self) -> None:
        """Start who may start: all behind one that is ready, or one alone."""
        for worker in self._workers:
            if worker.may_start and (self._somebody_is_ready or self._nobody_runs):
                worker.start(load_first=self._somebody_is_ready)

    def _look(self) -> None:
        for worker in self._workers:
            ended = worker.look()
            if ended is not None and self._been_ready and not self._stopping:
                logger.error("Worker %d died with status %d; another is started", ended, worker.status)
        self._been_ready = self._been_ready or self._somebody_is_ready

    def _pass_signals_on(self) -> None:
        while self._signals:
            number, self._stopping = self._signals.pop(0), True
            self._door.close()  # else who comes when the workers have closed theirs would wait for nobody
            for worker in self._workers:
                worker.signal(number)
