from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serving.batcher import Batcher
from serving.batches import Limits
from serving.errors import RoutesError
from serving.metrics import Metrics
from serving.registry import Fleet, Loaded, Registry
from serving.router import Routes
from serving.runtime import choose_runtime
from tests.models import copy_versions, rewrite


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


@pytest.mark.parametrize("changed", ["sample_rate_hz", "hop_samples"])
def test_a_shadow_whose_windows_are_cut_otherwise_is_refused(tmp_path: Path, changed: str) -> None:
    models = copy_versions(tmp_path, "2")
    file = models / "routes.yaml"
    file.write_text(
        'default: stable\nvariants: {stable: {version: "1", weight: 1}}\nshadow: {version: "2", percent: 1}\n'
    )

    def load() -> Registry:
        metrics, runtime = Metrics(), choose_runtime("cpu", 0, 0)
        return Registry(models, file, runtime, metrics, wait_s=0, queue_windows=8, retire_s=0)

    asyncio.run(load().close())
    rewrite(models / "2", lambda _: None, **{changed: 8000})
    with pytest.raises(RoutesError, match=r"version 2 cannot be the shadow of 1, whose windows are cut otherwise"):
        load()
