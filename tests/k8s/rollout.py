"""A Deployment and its Service on one machine, with real parts: pods are processes, HAProxy stands before them."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.haproxy import HAProxy
from tests.service import Service, environment, free_port, start_process, until, wait_until_ready

PODS = 16
"""Most pods of one play; each gets a place of its own in the proxy, so that its name is never another's."""
START_S = 300
"""A pod starts on the cores on which the others answer."""
DRAIN_S = 1.5
PRE_STOP_S = 1.0
"""The manifest's preStop sleep, in small."""

# As a gateway does: connections to pods are kept, health is what /readyz says, and a request that could not even be
# handed over goes to another pod. Such retries are counted, and a step that is not a kill must need none.
CONFIG = """
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout check 60s
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
    """One replica: its process, its name in the proxy, and what it had counted when it was last asked.

    Times are by the monotonic clock, seconds. ``asked_at`` and ``told_at`` are before and after it counted; ``down_at``
    is when the proxy had noticed that it was killed, and ``held`` what it certainly had in hand then.
    """

    name: str
    service: Service
    grpc_port: int
    counted: dict[str, float] = field(default_factory=dict)
    asked_at: float = 0.0
    told_at: float = 0.0
    killed_at: float | None = None
    down_at: float | None = None
    held: int = 0
    drained_at: float | None = None
    ready_at_sigterm: bool = False

    def count(self) -> bool:
        """Ask for its metrics; whether it still answers."""
        asked_at = time.monotonic()
        try:
            text = httpx.get(f"{self.service.url}/metrics", timeout=60).text
        except httpx.TransportError:
            return False
        self.asked_at, self.told_at = asked_at, time.monotonic()
        rows = [row for row in text.splitlines() if row.startswith("timbre_requests_total{")]
        self.counted = {labels: float(value) for labels, value in (row.rsplit(" ", 1) for row in rows)}
        return True

    def answered(self, transport: str) -> int:
        """Requests that it says it has answered well."""
        wanted = (f'transport="{transport}"', 'code="ok"')
        return int(sum(n for labels, n in self.counted.items() if all(label in labels for label in wanted)))

    def refused(self) -> dict[str, float]:
        return {labels: n for labels, n in self.counted.items() if 'code="ok"' not in labels and n}


class Proxy(HAProxy):
    """The Service: one door for HTTP, one for gRPC, the same pods behind both."""

    def __init__(self, folder: Path) -> None:
        self.http_port, self.grpc_port = free_port(), free_port()
        names = [f"pod{n}" for n in range(PODS)]
        check = "check inter 100ms fall 1 rise 1 disabled"
        config = CONFIG.format(
            http=self.http_port,
            grpc=self.grpc_port,
            http_pods="\n".join(f"    server {name} 127.0.0.1:1 {check}" for name in names),
            grpc_pods="\n".join(f"    server {name} 127.0.0.1:1 proto h2 track http/{name} disabled" for name in names),
        )
        super().__init__(folder, config)

    def add(self, pod: Pod) -> None:
        """An endpoint more."""
        http_port = int(pod.service.url.rsplit(":", 1)[1])
        self.say(f"set server http/{pod.name} addr 127.0.0.1 port {http_port}")
        self.say(f"set server grpc/{pod.name} addr 127.0.0.1 port {pod.grpc_port}")
        self.say(f"set server http/{pod.name} state ready")
        self.say(f"set server grpc/{pod.name} state ready")

    def drain(self, pod: Pod) -> None:
        """An endpoint that is going: what it has it may finish, and nothing new comes."""
        for door in ("http", "grpc"):
            self.say(f"set server {door}/{pod.name} state drain")

    def remove(self, pod: Pod) -> None:
        """No endpoint any more."""
        for door in ("http", "grpc"):
            self.say(f"set server {door}/{pod.name} state maint")

    def holds(self, pod: Pod) -> int:
        """Requests that were given to a pod and are not answered yet."""
        return sum(int(row["scur"] or 0) for row in self.rows() if row["svname"] == pod.name)

    def retries(self) -> int:
        """Requests that could not be handed to the pod that was chosen."""
        rows = [row for row in self.rows() if row["svname"] == "BACKEND"]
        return sum(int(row["wretr"] or 0) + int(row["wredis"] or 0) for row in rows)


class Deployment:
    """Pods of one revision after another: one more at a time, and never one less."""

    def __init__(self, folder: Path, models: Path, proxy: Proxy, replicas: int) -> None:
        self._folder, self._models, self._proxy, self._replicas = folder, models, proxy, replicas
        self.pods: list[Pod] = []
        self.past: list[Pod] = []
        self._routes = folder / "routes.yaml"
        self._numbers = itertools.count()

    def apply(self, revision: str, routes: str) -> None:
        """Roll to a revision with these routes: surge 1, unavailable 0.

        While an old pod takes its time to stop, the next new one starts: a pod that terminates is none of the replicas.
        """
        self._routes = self._folder / f"routes-{revision}.yaml"
        self.edit(routes)
        old = list(self.pods)
        with ThreadPoolExecutor() as pool:
            stopping = []
            for _ in range(self._replicas):
                self.start()
                if old:
                    stopping.append(pool.submit(self.stop, old.pop(0)))
            for each in stopping:
                each.result()

    def edit(self, routes: str) -> None:
        """Change the ConfigMap of the revision that runs, as a kubelet does: by moving another file into its place."""
        new = self._routes.with_suffix(".new")
        new.write_text(routes)
        new.replace(self._routes)

    def start(self) -> Pod:
        """One pod more; an endpoint once it is ready."""
        name = f"pod{next(self._numbers)}"
        port, grpc_port = free_port(), free_port()
        settings = environment(
            port=port, grpc_port=grpc_port, models=self._models, routes=self._routes, drain_s=DRAIN_S, runtime="cpu"
        )
        pod = Pod(name, start_process(self._folder / f"{name}.txt", settings), grpc_port)
        wait_until_ready(pod.service, START_S)
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
        pod.ready_at_sigterm = httpx.get(f"{pod.service.url}/readyz", timeout=60).is_success
        pod.service.process.send_signal(signal.SIGTERM)
        while pod.count():
            time.sleep(0.05)
        if pod.service.process.wait(120) != 0:
            raise RuntimeError(pod.service.log.read_text())
        self._gone(pod)

    def kill(self, pod: Pod, holding: int = 0) -> None:
        """SIGKILL, and another in its place; its metrics are read right before.

        Args:
            holding: so many requests it shall have in hand: it stands still until it has. With as many as there are
                clients nobody can ask for anything more meanwhile, and what is lost is known exactly.
        """
        if not pod.count():
            raise RuntimeError(pod.service.log.read_text())
        if holding:
            pod.service.process.send_signal(signal.SIGSTOP)
            if not until(lambda: self._proxy.holds(pod) == holding, 120):
                raise RuntimeError(f"{pod.name} has {self._proxy.holds(pod)} requests in hand, not {holding}")
            pod.held = holding
        pod.killed_at = time.monotonic()
        pod.service.process.kill()
        pod.service.process.wait(10)
        if not until(lambda: not self._proxy.sends_to(pod.name), 10):
            raise RuntimeError(f"the proxy goes on sending to {pod.name}, which was killed")
        pod.down_at = time.monotonic()
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
    """What one client saw of one request; times by the monotonic clock, seconds. A client has one at a time."""

    client: str
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
        self._turns = [0] * clients
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in range(clients)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.close()

    def goes_round(self) -> Callable[[], bool]:
        """Whether every client has asked with each of its keys since this was called."""
        before = list(self._turns)
        # One more than the keys: the first may have begun before.
        return lambda: all(now > was + self._keys for now, was in zip(self._turns, before, strict=True))

    def ask(self, client: int, key: str) -> Request:
        raise NotImplementedError

    def close(self) -> None:
        """Give up the connections."""
        raise NotImplementedError

    def _run(self, client: int) -> None:
        while not self._stop.is_set():
            key = f"{type(self).__name__}-{client}-{self._turns[client] % self._keys}"
            self.requests.append(self.ask(client, key))
            self._turns[client] += 1
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
