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
    found = Registry.__new__(Registry)
    found.fleet = Fleet(Routes.only("1"), {"1": Loaded("1", session, batcher)})  # type: ignore[arg-type]
    assert found.sick() == ["Version 1 fails: no memory."]
    shadowed = Routes.model_validate(
        {
            "default": "stable",
            "variants": {"stable": {"version": "2", "weight": 1}},
            "shadow": {"version": "1", "percent": 9},
        }
    )
    well = Batcher(fail, Limits(1, 1, 0, 1), Metrics().batches_of("2"))  # type: ignore[arg-type]
    loaded = {"1": Loaded("1", session, batcher), "2": Loaded("2", session, well)}  # type: ignore[arg-type]
    whole, found.fleet = found.fleet, Fleet(shadowed, loaded)
    assert found.sick() == []  # a shadow answers nobody
    found.fleet = whole
    session.broken = False
    assert found.sick() == []
    assert batcher.healthy


def registry(models: Path, metrics: Metrics | None = None) -> Registry:
    runtime = choose_runtime("cpu", 0, 0)
    return Registry(
        models, models / "routes.yaml", runtime, metrics or Metrics(), wait_s=0, queue_windows=8, retire_s=0
    )


def test_without_a_file_the_newest_version_answers_and_with_an_empty_one_none_does(tmp_path: Path) -> None:
    models = copy_versions(tmp_path, "2")
    found = registry(models)
    assert found.fleet.default.version == "2"
    asyncio.run(found.close())
    (models / "routes.yaml").write_text("\n")
    with pytest.raises(RoutesError, match=r"routes\.yaml"):
        registry(models)


@pytest.mark.parametrize(("shadow", "told"), [("1", {"1": 1}), ("2", {"1": 1, "2": 1})])
def test_who_names_one_version_twice_has_one_loaded(tmp_path: Path, shadow: str, told: dict[str, float]) -> None:
    """By this a canary that changes only the image is told from one whose shadow has heard nothing yet."""
    models, metrics = copy_versions(tmp_path, "2"), Metrics()
    (models / "routes.yaml").write_text(
        'default: stable\nvariants: {stable: {version: "1", weight: 1}}\n'
        f'shadow: {{version: "{shadow}", percent: 50}}\n'
    )
    asyncio.run(registry(models, metrics).close())
    (info,) = metrics.model_info.collect()
    assert {sample.labels["version"]: sample.value for sample in info.samples} == told


@pytest.mark.parametrize("changed", ["sample_rate_hz", "hop_samples"])
def test_a_shadow_whose_windows_are_cut_otherwise_is_refused(tmp_path: Path, changed: str) -> None:
    models = copy_versions(tmp_path, "2")
    (models / "routes.yaml").write_text(
        'default: stable\nvariants: {stable: {version: "1", weight: 1}}\nshadow: {version: "2", percent: 1}\n'
    )

    asyncio.run(registry(models).close())
    rewrite(models / "2", lambda _: None, **{changed: 8000})
    with pytest.raises(RoutesError, match=r"version 2 cannot be the shadow of 1, whose windows are cut otherwise"):
        registry(models)
