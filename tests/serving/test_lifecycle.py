from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest
import uvicorn

from serving import lifecycle as clocked
from serving.grpc_server import GrpcServer
from serving.lifecycle import FINISH_S, Lifecycle
from serving.parts import Parts
from serving.server import _Server
from serving.settings import Settings


def test_the_steps_of_a_stop_share_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live streams, then requests over HTTP, then calls over gRPC; all that one takes, the next do not have."""
    now, given = 1000.0, []
    monkeypatch.setattr(clocked, "time", SimpleNamespace(monotonic=lambda: now))

    def step(timeout_s: float, takes_s: float) -> None:
        nonlocal now
        given.append(timeout_s)
        now += takes_s

    async def quiet(timeout_s: float) -> None:
        step(timeout_s, FINISH_S / 3)

    async def shutdown(self: uvicorn.Server, sockets: object = None) -> None:
        step(self.config.timeout_graceful_shutdown or 0, FINISH_S / 2)

    async def stop(grace_s: float) -> None:
        step(grace_s, grace_s)

    async def main() -> None:
        nonlocal now
        lifecycle = Lifecycle(cast("Parts", SimpleNamespace(live=SimpleNamespace(quiet=quiet))))
        monkeypatch.setattr(uvicorn.Server, "shutdown", shutdown)
        over_grpc = GrpcServer(Settings(), lifecycle)
        monkeypatch.setattr(over_grpc, "_server", SimpleNamespace(stop=stop))
        now += 100.0  # that it has run
        await _Server(Settings(), lifecycle).shutdown()
        await over_grpc.close()
        assert given == pytest.approx([FINISH_S, FINISH_S * 2 / 3, FINISH_S / 6])

        await over_grpc.close()  # nothing is left; what is all but answered is answered
        assert 0 < given[-1] < FINISH_S / 10

    asyncio.run(main())
