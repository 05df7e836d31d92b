"""Who is asked: a service of our own, or one that runs somewhere already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load import OK, Transport
from benchmarks.loops import ask_once
from benchmarks.process import HOST, Server
from benchmarks.transports import multipart, oip_rpc, predict_rpc, raw

MULTIPART, RAW, RPC, OIP = "HTTP multipart", "HTTP raw body", "gRPC Predict", "OIP gRPC"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""(name, labels) -> value, as /metrics tells them."""


NONE = "none"
"""Where a service has no gRPC."""

_STARTED = "process_start_time_seconds"
_READINGS = 8  # of which one in 128 times all are of the same one of two replicas, where chance chooses
_MIXED = "/metrics is now one process's and now another's, as behind a balancer: what it counts cannot be told apart"


class NotHereError(Exception):
    """Something cannot be measured on this machine, or of a service elsewhere; says why."""


@dataclass(frozen=True)
class Target:
    """A running service.

    Attributes:
        url: of HTTP.
        grpc: host:port of gRPC; empty for none.
        server: its process, where it is ours.
        silent: transports that do not answer, and what came instead.
        mixed: why its metrics say nothing; empty where they do.
    """

    url: str
    grpc: str = ""
    server: Server | None = None
    silent: dict[str, str] = field(default_factory=dict)
    mixed: str = ""

    @classmethod
    def of(cls, server: Server) -> Target:
        """A process that was started here."""
        return cls(server.url, f"{HOST}:{server.grpc_port}" if server.grpc_port else "", server)

    @classmethod
    def at(cls, url: str, grpc: str) -> Target:
        """A service elsewhere; its gRPC is asked on port 3001 of the same host unless told otherwise, or told NONE."""
        url = url.rstrip("/")
        return cls(url, "" if grpc == NONE else grpc or f"{urlsplit(url).hostname}:3001")

    def asked(self, clip: bytes) -> Target:
        """The same, once each transport has been asked once: without those that do not answer, whose reason it knows.

        Its metrics are read several times too, each over a connection of its own: behind a balancer they are now one
        replica's, now another's, and what changes between two readings is nobody's.
        """
        silent = {} if self.grpc else dict.fromkeys((RPC, OIP), "no gRPC address was given")
        for name, way in self.transports([clip]).items():
            if (came := ask_once(way)) != OK:
                silent[name] = f"asked once, it answered: {came}"
        try:
            starts = {total(self.samples(), _STARTED) for _ in range(_READINGS)}
            mixed = _MIXED if len(starts) > 1 else ""
        except httpx.HTTPError as error:
            mixed = f"/metrics is not to be read: {error}"
        return replace(self, silent=silent, mixed=mixed)

    def transports(self, clips: Sequence[bytes]) -> dict[str, Transport]:
        """Every way to send these clips that answers."""
        ways: dict[str, Transport] = {MULTIPART: multipart(self.url, clips), RAW: raw(self.url, clips)}
        if self.grpc:
            secure = self.url.startswith("https:")
            ways[RPC] = predict_rpc(self.grpc, clips, secure=secure)
            ways[OIP] = oip_rpc(self.grpc, clips, secure=secure)
        return {name: way for name, way in ways.items() if name not in self.silent}

    def samples(self) -> Samples:
        """Everything at /metrics. Behind a balancer that is one replica's.

        Raises:
            NotHereError: it is known to be now one's, now another's.
        """
        if self.mixed:
            raise NotHereError(self.mixed)
        text = httpx.get(f"{self.url}/metrics", timeout=30).raise_for_status().text
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def resident_mb(self) -> float:
        """Memory of its processes; elsewhere, what it says itself."""
        if self.server:
            return self.server.resident_mb()
        return round(total(self.samples(), "process_resident_memory_bytes") / 1e6, 1)

    def cpu_s(self) -> float:
        """Processor time of its processes; elsewhere, what it says itself."""
        return self.server.cpu_s() if self.server else total(self.samples(), "process_cpu_seconds_total")


def total(samples: Samples, name: str, **labels: str) -> float:
    """Sum of the samples of a name that have these labels."""
    wanted = set(labels.items())
    return sum(value for (found, has), value in samples.items() if found == name and wanted <= set(has))


def change(before: Samples, after: Samples) -> Samples:
    """What counters and histograms counted in between.

    Raises:
        NotHereError: they are not of the same process.
    """
    if total(before, _STARTED) != total(after, _STARTED):
        raise NotHereError(_MIXED)
    return {key: value - before.get(key, 0.0) for key, value in after.items()}
