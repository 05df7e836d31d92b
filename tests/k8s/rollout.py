"""A Deployment and its Service on one machine, with real parts: pods are processes, HAProxy stands before them."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.service import Service, environment, free_port, start_process, until, wait_until_ready

PODS = 16
"""Most pods of one play; each gets a place of its own in the proxy, so that its name is never another's."""
DRAIN_S = 1.5
PRE_STOP_S = 1.0
"""The manifest's preStop sleep, in small."""

# As a gateway does: connections to pods are kept, health is what /readyz says, and a request that could not even be
# handed over goes to another pod. Such retries are counted, and a step that is not a kill must need none.
CONFIG = """
global
    stats socket {socket} mode 600 level admin
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout check 5s
    retries 3
    option redispatch 1
    retry-on conn-failure
    http-reuse always
frontend http
    bind 127.0.0.1:{http}
    default_backend http
backend http
    balance roundrobin
    http-after-response set-header x-pod %[srv_name]
    option httpchk GET /readyz
{http_pods}
frontend grpc
    bind 127.0.0.1:{grpc} proto h2
    default_backend grpc
backend grpc
    balance roundrobin
    http-after-response set-header x-pod %[srv_name]
{grpc_pods}
"""


@dataclass
class Pod:
    """One replica: its process, its name in the proxy, and what it had counted when it was last asked."""

    name: str
    service: Service
    grpc_port: int
    counted: dict[str, float] = field(default_factory=dict)
    killed_at: float | None = None
    drained_at: float | None = None
    ready_at_sigterm: bool = False

    def count(self) -> bool:
        """Ask for its metrics; whether it still answers."""
        try:
            text = httpx.get(f"{self.service.url}/metrics", timeout=5).text
        except httpx.TransportError:
            return False
        rows = [row for row in text.splitlines() if row.startswith("timbre_requests_total{")]
        self.counted = {labels: float(value) for labels, value in (row.rsplit(" ", 1) for row in rows)}
        return True

    def answered(self, transport: str) -> int:
        """Requests that it says it has answered well."""
        wanted = (f'transport="{transport}"', 'code="ok"')
        return int(sum(n for labels, n in self.counted.items() if all(label in labels for label in wanted)))

    def refused(self) -> dict[str, float]:
        return {labels: n for labels, n in self.counted.items() if 'code="ok"' not in labels and n}


class Proxy:
    """HAProxy as the Service: one door for HTTP, one for gRPC, the same pods behind both."""

    def __init__(self, folder: Path) -> None:
        self.http_port, self.grpc_port = free_port(), free_port()
        self._socket = folder / "haproxy.sock"
        names = [f"pod{n}" for n in range(PODS)]
        check = "check inter 100ms fall 1 rise 1 disabled"
        text = CONFIG.format(
            socket=self._socket,
            http=self.http_port,
            grpc=self.grpc_port,
            http_pods="\n".join(f"    server {name} 127.0.0.1:1 {check}" for name in names),
            grpc_pods="\n".join(f"    server {name} 127.0.0.1:1 proto h2 track http/{name} disabled" for name in names),
        )
        (folder / "haproxy.cfg").write_text(text)
        with (folder / "haproxy.log").open("wb") as log:
            command = ["haproxy", "-f", str(folder / "haproxy.cfg"), "-db"]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        if not until(self._socket.exists, 20):
            raise RuntimeError((folder / "haproxy.log").read_text())

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def add(self, pod: Pod) -> None:
        """An endpoint more."""
        http_port = int(pod.service.url.rsplit(":", 1)[1])
        self._say(f"set server http/{pod.name} addr 127.0.0.1 port {http_port}")
        self._say(f"set server grpc/{pod.name} addr 127.0.0.1 port {pod.grpc_port}")
        self._say(f"set server http/{pod.name} state ready")
        self._say(f"set server grpc/{pod.name} state ready")

    def drain(self, pod: Pod) -> None:
        """An endpoint that is going: what it has it may finish, and nothing new comes."""
        for door in ("http", "grpc"):
            self._say(f"set server {door}/{pod.name} state drain")

    def remove(self, pod: Pod) -> None:
        """No endpoint any more."""
        for door in ("http", "grpc"):
            self._say(f"set server {door}/{pod.name} state maint")

    def sends_to(self, pod: Pod) -> bool:
        return any(row["svname"] == pod.name and row["status"] in {"UP", "no check"} for row in self._rows())

    def retries(self) -> int:
        """Requests that could not be handed to the pod that was chosen."""
        rows = [row for row in self._rows() if row["svname"] == "BACKEND"]
        return sum(int(row["wretr"] or 0) + int(row["wredis"] or 0) for row in rows)

    def _rows(self) -> list[dict[str, str]]:
        head, *rows = self._say("show stat").strip().splitlines()
        names = head.removeprefix("# ").split(",")
        return [dict(zip(names, row.split(","), strict=False)) for row in rows]

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


class Deployment:
    """Pods of one revision after another: one more at a time, and never one less."""

    def __init__(self, folder: Path, models: Path, proxy: Proxy, replicas: int) -> None:
        self._folder, self._models, self._proxy, self._replicas = folder, models, proxy, replicas
        self.pods: list[Pod] = []
        self.past: list[Pod] = []
        self._routes = folder / "routes.yaml"

    def apply(self, revision: str, routes: str) -> None:
        """Roll to a revision with these routes: surge 1, unavailable 0."""
        self._routes = self._folder / f"routes-{revision}.yaml"
        self.edit(routes)
        old = list(self.pods)
        for _ in range(self._replicas):
            self.start()
            if old:
                self.stop(old.pop(0))

    def edit(self, routes: str) -> None:
        """Change the ConfigMap of the revision that runs, as a kubelet does: by moving another file into its place."""
        new = self._routes.with_suffix(".new")
        new.write_text(routes)
        new.replace(self._routes)

    def start(self) -> Pod:
        """One pod more; an endpoint once it is ready."""
        name = f"pod{len(self.pods) + len(self.past)}"
        port, grpc_port = free_port(), free_port()
        settings = environment(
            port=port, grpc_port=grpc_port, models=self._models, routes=self._routes, drain_s=DRAIN_S, runtime="cpu"
        )
        pod = Pod(name, start_process(self._folder / f"{name}.txt", settings), grpc_port)
        wait_until_ready(pod.service)
        self._proxy.add(pod)
        self.pods.append(pod)
        return pod

    def stop(self, pod: Pod) -> None:
        """As a deleted pod: the Service lets go of it while preStop sleeps, then SIGTERM, and it drains and goes.

        Its metrics are read until it has gone.
        """
        self._proxy.drain(pod)
        pod.drained_at = time.monotonic()
        time.sleep(PRE_STOP_S)
        pod.ready_at_sigterm = httpx.get(f"{pod.service.url}/readyz", timeout=5).is_success
        pod.service.process.send_signal(signal.SIGTERM)
        while pod.count():
            time.sleep(0.05)
        if pod.service.process.wait(40) != 0:
            raise RuntimeError(pod.service.log.read_text())
        self._gone(pod)

    def kill(self, pod: Pod) -> None:
        """SIGKILL, and another in its place."""
        pod.killed_at = time.monotonic()
        pod.service.process.kill()
        pod.service.process.wait(10)
        until(lambda: not self._proxy.sends_to(pod), 10)
        self._gone(pod)
        self.start()

    def close(self) -> None:
        """Stop whatever still runs."""
        for pod in self.pods:
            pod.service.process.kill()
            pod.service.process.wait(10)

    def _gone(self, pod: Pod) -> None:
        self._proxy.remove(pod)
        self.pods.remove(pod)
        self.past.append(pod)


@dataclass(frozen=True)
class Request:
    """What one client saw of one request; times by the monotonic clock, seconds."""

    transport: str
    key: str
    began: float
    ended: float
    pod: str
    variant: str
    version: str
    failure: str = ""


class Load:
    """Clients that never stop, each with keys of its own. A subclass knows how to ask."""

    def __init__(self, clients: int, keys: int) -> None:
        self.requests: list[Request] = []
        self._keys, self._stop = keys, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in range(clients)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.close()

    def ask(self, client: int, key: str) -> Request:
        raise NotImplementedError

    def close(self) -> None:
        """Give up the connections."""
        raise NotImplementedError

    def _run(self, client: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            self.requests.append(self.ask(client, f"{type(self).__name__}-{client}-{turn % self._keys}"))
            time.sleep(0.02)  # steady, and not as fast as it goes: pods start on the same cores


@contextmanager
def under(*loads: Load) -> Iterator[None]:
    """While these clients ask."""
    for load in loads:
        load.start()
    try:
        yield
    finally:
        for load in loads:
            load.stop()
