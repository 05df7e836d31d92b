"""Several processes behind one port, for a big machine without Kubernetes: start, restart, stop.

Each worker is this program again, with the listening socket handed down; the kernel gives each connection to one. What
they count lies in files of a common folder, so that any of them answers ``/metrics`` for all.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from prometheus_client.multiprocess import mark_process_dead

from serving.logs import log_to_stderr
from serving.metrics import MULTIPROCESS_DIR
from serving.parts import Parts
from serving.server import check_grpc_port, listen
from serving.settings import PREFIX, Settings
from serving.tls import tls_context

logger = logging.getLogger("timbre")

_LOOK_S = 0.2
_RESTART_S = 1.0  # between restarts of one worker, so that a fault at start does not burn the machine


def run_workers(settings: Settings, command: Sequence[str] = (sys.executable, "-m", "serving", "worker")) -> None:
    """Answer with ``settings.workers`` processes until told to stop.

    Args:
        command: starts one worker; the number of the inherited socket is appended.

    Raises:
        AddressError: a port is taken, or the address is not this machine's.
        SettingsError: the TLS files are not what they should be.
        TimbreError: nothing can be loaded; no worker is started.
    """
    log_to_stderr(settings.log)
    Parts.build(settings)  # once here, so that what cannot start is told once and not by each worker for ever
    tls_context(settings)
    check_grpc_port(settings)
    listener = listen(settings)
    with tempfile.TemporaryDirectory(prefix="timbre-workers-") as folder:
        # Workers of one replica must read each other's request ids.
        secret = settings.secret.get_secret_value() or secrets.token_hex(32)
        shared = {MULTIPROCESS_DIR: folder, f"{PREFIX}SECRET": secret}
        _Workers(settings.workers, [*command, str(listener.fileno())], listener, shared).run()


class _Workers:
    """The processes, each replaced when it dies, until a signal tells to stop."""

    def __init__(self, count: int, command: list[str], listener: socket.socket, shared: dict[str, str]) -> None:
        self._command, self._listener, self._environment = command, listener, os.environ | shared
        self._signals: list[int] = []
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, lambda number, _: self._signals.append(number))
        self._running = [self._start() for _ in range(count)]
        self._died: dict[int, float] = {}  # by place, when

    def run(self) -> None:
        """Until every worker has stopped after a signal."""
        stopping = False
        while not (stopping and all(worker.poll() is not None for worker in self._running)):
            time.sleep(_LOOK_S)
            for number in self._signals:
                stopping = True
                for worker in self._running:
                    worker.send_signal(number)
            self._signals.clear()
            if not stopping:
                self._replace_dead()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own program
            self._command, env=self._environment, pass_fds=[self._listener.fileno()], start_new_session=True
        )

    def _replace_dead(self) -> None:
        for place, worker in enumerate(self._running):
            if worker.poll() is None:
                continue
            if place not in self._died:
                self._died[place] = time.monotonic()
                logger.error("Worker %d died with status %d; another is started", worker.pid, worker.returncode)
                mark_process_dead(worker.pid, self._environment[MULTIPROCESS_DIR])  # type: ignore[no-untyped-call]
            if time.monotonic() - self._died[place] >= _RESTART_S:
                del self._died[place]
                self._running[place] = self._start()
