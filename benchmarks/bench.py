"""What every part of the benchmark is given: the service, the clips, how long to measure, what was found before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.clips import Clip, clips
from benchmarks.load import OK, Transport
from benchmarks.loops import closed_loop, one_by_one
from benchmarks.peers import timbre
from benchmarks.target import MULTIPART, Target

Json = dict[str, Any]

_LEAST_S = 0.3
_QUICK_CLIENTS, _QUICK_S = 16, 2.0


class NotHereError(Exception):
    """A part cannot be measured on this machine, or of a service elsewhere; says why."""


@dataclass
class Bench:
    """One run.

    Attributes:
        url, grpc: of a service that runs already; empty: one is started here.
        scale: of every duration.
        seed: of arrivals.
        rounds: of what is interleaved.
        found: results of the parts so far, by name.
        say: is told what happens.
    """

    url: str = ""
    grpc: str = ""
    scale: float = 1.0
    seed: int = 0
    rounds: int = 3
    sent: list[Clip] = field(default_factory=clips)
    found: dict[str, Json] = field(default_factory=dict)
    say: Callable[[str], None] = print
    idle_mb: float = 0.0
    """Memory of the shared service before its first request, MB."""
    _running: Target | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def data(self) -> list[bytes]:
        """The clips' bytes."""
        return [clip.data for clip in self.sent]

    def seconds(self, nominal: float) -> float:
        """So long a measurement is to take."""
        return max(_LEAST_S, nominal * self.scale)

    def service(self) -> Target:
        """The service, started when it is first asked for, and then shared by the parts."""
        if self._running is None:
            target = Target.at(self.url, self.grpc) if self.url else Target.of(self._stack.enter_context(timbre()))
            self.idle_mb = target.resident_mb()
            self._running = target
            self._check(target)
        return self._running

    @contextmanager
    def started(self, cores: set[int] | None = None, /, **settings: object) -> Iterator[Target]:
        """A service with these settings, alone on the machine.

        Raises:
            NotHereError: a service elsewhere is measured.
        """
        if self.url:
            raise NotHereError("a service that runs already is not started with other settings")
        self.stop()
        with timbre(cores, **settings) as server:
            target = Target.of(server)
            self._check(target)
            yield target

    def stop(self) -> None:
        """Stop the shared service, so that something else has the machine to itself."""
        self._stack.close()
        self._running = None

    def multipart(self) -> Transport:
        """The way of `curl -F`, with all the clips."""
        return self.service().transports(self.data)[MULTIPART]

    def highest(self, transport: str = MULTIPART) -> float:
        """The most requests per second that were seen by this transport; measured briefly where they were not yet."""
        known = self.found.get("capacity", {}).get("transports", {}).get(transport)
        if known:
            return float(known["highest_seen"])
        way = self.service().transports(self.data)[transport]
        return closed_loop(way, _QUICK_CLIENTS, self.seconds(_QUICK_S)).per_second

    def _check(self, target: Target) -> None:
        """Every clip once: it is answered, and what is loaded late is loaded."""
        load = one_by_one(target.transports(self.data)[MULTIPART], 0.0, least=len(self.sent))
        if load.outcomes.total() != load.outcomes[OK]:
            raise RuntimeError(f"{target.url} does not answer the clips: {dict(load.outcomes)}.")
