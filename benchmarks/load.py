"""What a load saw of a server, and of the program that made the load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from benchmarks.histogram import FEWEST, Histogram

OK, BROKEN, UNANSWERED = "ok", "broken", "unanswered"
"""Outcomes of a request beside the transport's own codes."""
NO_ROOM = ("http_429", "grpc_resource_exhausted")

SAID = 300
"""Characters of a failure that are kept."""

MOST_SHARE = 0.8
"""Of one core: a generator that takes more has no room to keep time."""


class Connection(Protocol):
    """One client's connection.

    Attributes:
        sent_at: when the last request had been handed over as a whole, by the event loop's clock.
        said: what the last answer said that was no good one, its first SAID characters.
    """

    sent_at: float
    said: str

    @property
    def closed(self) -> bool:
        """Whether the server has closed it, or said that it will."""

    async def ask(self, turn: int) -> str:
        """Send a request, wait for its answer; returns its outcome.

        Raises:
            OSError, asyncio.IncompleteReadError: the connection broke.
        """

    async def close(self) -> None:
        """Let go of it."""


class Transport(Protocol):
    """A way to ask a server."""

    async def connect(self) -> Connection:
        """A connection of one's own.

        Raises:
            OSError: nobody is there.
        """


@dataclass
class Load:
    """What was sent and what came of it, after the warm-up.

    Attributes:
        seconds: measured.
        clients: of a closed loop, each with one request under way.
        rate: of an open loop, requests per second.
        latencies_s: of each request that was answered well, or given up: of a closed loop from its sending, of an open
            one from when it was due.
        refused_s: of each that was refused for lack of room; quick refusals make no server quicker. Of a closed loop
            from when the request had been sent as a whole: a client that still sends hears nothing.
        outcomes: how many ended how.
        said: what came with the first of each outcome that is no good answer, so that it can be explained.
        all_requests: answered, the warm-up's too.
        own_cpu_s: processor time that this program took.
        lags_s: how late this program was: for what was due, or for a timer.
    """

    seconds: float
    clients: int = 0
    rate: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    said: dict[str, str] = field(default_factory=dict)
    all_requests: int = 0
    own_cpu_s: float = 0.0
    lags_s: list[float] = field(default_factory=list)

    @classmethod
    def merged(cls, rounds: Sequence[Load]) -> Load:
        """The same load, measured several times, as one."""
        whole = cls(sum(load.seconds for load in rounds), clients=rounds[0].clients, rate=rounds[0].rate)
        for load in rounds:
            whole.latencies_s += load.latencies_s
            whole.refused_s += load.refused_s
            whole.outcomes += load.outcomes
            whole.said = load.said | whole.said
            whole.all_requests += load.all_requests
            whole.own_cpu_s += load.own_cpu_s
            whole.lags_s += load.lags_s
        return whole

    def count(self, outcome: str, seconds: float, said: str = "") -> None:
        """One request that ended so, after so long."""
        self.outcomes[outcome] += 1
        if outcome != OK and said:
            self.said.setdefault(outcome, said[:SAID])
        if outcome in (OK, UNANSWERED):
            self.latencies_s.append(seconds)
        elif outcome in NO_ROOM:
            self.refused_s.append(seconds)

    @property
    def per_second(self) -> float:
        """Good answers."""
        return self.outcomes[OK] / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Requests per second, latencies in ms, errors, the generator's own cost and whether it was the bottleneck."""
        total = self.outcomes.total()
        latencies, lags = Histogram(self.latencies_s), Histogram(self.lags_s)
        told: dict[str, Any] = {"clients": self.clients} if self.clients else {"rate": round(self.rate, 2)}
        share = self.own_cpu_s / self.seconds
        return told | {
            "seconds": self.seconds,
            "requests": total,
            "errors": total - self.outcomes[OK],
            "outcomes": dict(self.outcomes),
            "said": self.said,
            "per_second": round(self.per_second, 2),
            "mean_ms": round(float(np.mean(self.latencies_s)) * 1e3, 3) if self.latencies_s else 0.0,
            **latencies.to_json(),
            "generator": {
                "core_share": round(share, 3),
                "lag_p50_ms": lags.ms(50),
                "lag_p99_ms": lags.ms(99),
                "bottleneck": bottleneck(share, lags.ms(99), latencies.ms(50)),
            },
        }


def quoted(load: dict[str, Any], key: str) -> float | None:
    """One of a load's percentiles, ms; None where too few are in its histogram: answered well, or given up."""
    inside = sum(load["outcomes"].get(outcome, 0) for outcome in (OK, UNANSWERED))
    return float(load[key]) if inside >= FEWEST.get(key, 1) else None


def bottleneck(core_share: float, lag_p99_ms: float, latency_p50_ms: float) -> str:
    """Why a load says more of its generator than of the server; empty where it does not."""
    if core_share > MOST_SHARE:
        return f"the load generator took {core_share:.2f} of one core, more than {MOST_SHARE}"
    if lag_p99_ms > latency_p50_ms:
        return f"the load generator was {lag_p99_ms:.1f} ms late (p99), more than the median answer took"
    return ""
