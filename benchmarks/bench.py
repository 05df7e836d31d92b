"""What every part of the benchmark is given: the service, the clips, how long to measure, what was found before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.clips import Clip, clips
from benchmarks.histogram import FEWEST
from benchmarks.load import OK, Transport
from benchmarks.loops import closed_loop, one_by_one
from benchmarks.peers import timbre
from benchmarks.target import MULTIPART, NotHereError, Target

Json = dict[str, Any]

_LEAST_S = 0.3
_ENOUGH = 1.3 * FEWEST["p99_ms"]  # Poisson arrivals that are due, so that as many as a p99 needs come nearly always
_QUICK_CLIENTS, _QUICK_S = 16, 2.0


class Highest(NamedTuple):
    """The most requests per second that were seen.

    Attributes:
        per_second: of that number of clients at which they were most, the median of the rounds.
        clients: that number.
        not_quoted: why that is no capacity: what the load generator was the bottleneck by; empty where it is one.
    """

    per_second: float
    not_quoted: str
    clients: int


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

    def seconds_at(self, rate: float, nominal: float) -> float:
        """So long an open loop of that rate is to take: longer than nominal where too few would come for a p99."""
        return max(self.seconds(nominal), min(1.0, self.scale) * _ENOUGH / rate)

    def service(self) -> Target:
        """The service, started when it is first asked for, and then shared by the parts."""
        if self._running is None:
            if self.url:
                target = Target.at(self.url, self.grpc).asked(self.data[0])
            else:
                target = Target.of(self._stack.enter_context(timbre()))
            for name, reason in target.silent.items():
                self.say(f"{name} is left out: {reason}")
            self.idle_mb = 0.0 if target.mixed else target.resident_mb()
            self._check(target)
            self._running = target
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

    def highest(self, transport: str = MULTIPART) -> Highest:
        """The most requests per second that were seen by this transport; measured briefly where they were not yet.

        Raises:
            RuntimeError: nothing was answered.
        """
        known = self.found.get("capacity", {}).get("transports", {}).get(transport)
        if known:
            return Highest(float(known["highest_seen"]), known["not_quoted"], known["clients"])
        way = self.service().transports(self.data)[transport]
        load = closed_loop(way, _QUICK_CLIENTS, self.seconds(_QUICK_S))
        if not load.per_second:
            raise RuntimeError(f"{transport} answers nothing: {dict(load.outcomes)}.")
        return Highest(load.per_second, load.to_json()["generator"]["bottleneck"], _QUICK_CLIENTS)

    def _check(self, target: Target) -> None:
        """Every clip once: it is answered, and what is loaded late is loaded."""
        if reason := target.silent.get(MULTIPART):
            raise RuntimeError(f"{target.url} does not answer a clip: {reason}.")
        load = one_by_one(target.transports(self.data)[MULTIPART], 0.0, least=len(self.sent))
        if load.outcomes.total() != load.outcomes[OK]:
            raise RuntimeError(f"{target.url} does not answer the clips: {dict(load.outcomes)}.")
