"""Who is asked: a service of our own, or one that runs somewhere already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load import Transport
from benchmarks.process import HOST, Server
from benchmarks.transports import multipart, oip_rpc, predict_rpc, raw

MULTIPART, RAW, RPC, OIP = "HTTP multipart", "HTTP raw body", "gRPC Predict", "OIP gRPC"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""(name, labels) -> value, as /metrics tells them."""


@dataclass(frozen=True)
class Target:
    """A running service.

    Attributes:
        url: of HTTP.
        grpc: host:port of gRPC; empty for none.
        server: its process, where it is ours.
    """

    url: str
    grpc: str = ""
    server: Server | None = None

    @classmethod
    def of(cls, server: Server) -> Target:
        """A process that was started here."""
        return cls(server.url, f"{HOST}:{server.grpc_port}" if server.grpc_port else "", server)

    @classmethod
    def at(cls, url: str, grpc: str) -> Target:
        """A service elsewhere; its gRPC is asked on port 3001 of the same host unless told otherwise."""
        url = url.rstrip("/")
        return cls(url, grpc or f"{urlsplit(url).hostname}:3001")

    def transports(self, clips: Sequence[bytes]) -> dict[str, Transport]:
        """Every way to send these clips."""
        ways: dict[str, Transport] = {MULTIPART: multipart(self.url, clips), RAW: raw(self.url, clips)}
        if self.grpc:
            secure = self.url.startswith("https:")
            ways[RPC] = predict_rpc(self.grpc, clips, secure=secure)
            ways[OIP] = oip_rpc(self.grpc, clips, secure=secure)
        return ways

    def samples(self) -> Samples:
        """Everything at /metrics. Behind a balancer that is one replica's."""
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
    """What counters and histograms counted in between."""
    return {key: value - before.get(key, 0.0) for key, value in after.items()}
