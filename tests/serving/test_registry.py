from __future__ import annotations

from serving.batcher import Batcher, Limits
from serving.metrics import Metrics
from serving.registry import Fleet, Loaded, Registry
from serving.router import Routes


def test_a_version_that_fails_is_told_by_readiness_and_forgiven_when_it_runs_again() -> None:
    class Faulty:
        broken = True

        def probe(self) -> None:
            if self.broken:
                raise RuntimeError("no memory")

    async def fail(_: object) -> object:
        raise RuntimeError("no memory")

    session = Faulty()
    batcher = Batcher(fail, Limits(1, 1, 0, 1), Metrics().batches_of("1"))  # type: ignore[arg-type]
    batcher.healthy = False
    registry = Registry.__new__(Registry)
    registry.fleet = Fleet(Routes.only("1"), {"1": Loaded("1", session, batcher)})  # type: ignore[arg-type]
    assert registry.sick() == ["Version 1 fails: no memory."]
    session.broken = False
    assert registry.sick() == []
    assert batcher.healthy
