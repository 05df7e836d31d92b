from __future__ import annotations

from serving.batcher import Batcher
from serving.batches import Limits
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
    shadowed = Routes.model_validate(
        {
            "default": "stable",
            "variants": {"stable": {"version": "2", "weight": 1}},
            "shadow": {"version": "1", "percent": 9},
        }
    )
    well = Batcher(fail, Limits(1, 1, 0, 1), Metrics().batches_of("2"))  # type: ignore[arg-type]
    loaded = {"1": Loaded("1", session, batcher), "2": Loaded("2", session, well)}  # type: ignore[arg-type]
    whole, registry.fleet = registry.fleet, Fleet(shadowed, loaded)
    assert registry.sick() == []  # a shadow answers nobody
    registry.fleet = whole
    session.broken = False
    assert registry.sick() == []
    assert batcher.healthy
