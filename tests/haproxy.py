"""Debian's HAProxy before services: started with a configuration, asked and told over its socket."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from tests.service import until


class HAProxy:
    """A running HAProxy.

    Args:
        folder: where its configuration, socket and log are.
        config: what it is configured with beside its socket; begins with the section ``defaults``.

    Raises:
        RuntimeError: it does not start; the message is its log.
    """

    def __init__(self, folder: Path, config: str) -> None:
        self._socket = folder / "haproxy.sock"
        file, log = folder / "haproxy.cfg", folder / "haproxy.log"
        file.write_text(f"global\n    stats socket {self._socket} mode 600 level admin\n{config.strip()}\n")
        with log.open("wb") as out:
            self._process = subprocess.Popen(["haproxy", "-f", str(file), "-db"], stdout=out, stderr=out)
        if not until(self._socket.exists):
            raise RuntimeError(log.read_text())

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def sends_to(self, server: str) -> bool:
        """Whether a server of this name is taken for well in some backend."""
        return any(row["svname"] == server and row["status"] in {"UP", "no check"} for row in self.rows())

    def rows(self) -> list[dict[str, str]]:
        """What it counts of each frontend, backend and server."""
        head, *rows = self.say("show stat").strip().splitlines()
        names = head.removeprefix("# ").split(",")
        return [dict(zip(names, row.split(","), strict=False)) for row in rows]

    def say(self, command: str) -> str:
        """What it answers to a command of its runtime API."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
