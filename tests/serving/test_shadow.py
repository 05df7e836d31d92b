"""The shadow alone: fake versions, and a clock that jumps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from serving.audio import Windows
from serving.metrics import Metrics
from serving.registry import Fleet, Loaded
from serving.router import Routes
from serving.shadow import Shadowing
from tests.virtual import run_virtually

LABELS = ("sad", "happy")
PASS_S = 0.1


@dataclass
class Queue:
    """A version's batcher: takes a while for each window, and says `happy`."""

    error: Exception | None = None
    idle: bool = True
    asked: list[float] = field(default_factory=list)

    async def submit(self, windows: Any) -> Any:
        assert len(windows) == 1
        self.asked.append(now())
        await asyncio.sleep(PASS_S)
        if self.error:
            raise self.error
        return SimpleNamespace(probabilities=np.array([[0.25, 0.75]], np.float32))


@dataclass
class Scene:
    """A primary, its shadow, and how busy the service is."""

    percent: float = 100.0
    error: Exception | None = None
    busy: bool = False

    def __post_init__(self) -> None:
        self.queue, self.metrics = Queue(self.error), Metrics()
        self.primary, self.shadow = loaded("1", Queue()), loaded("2", self.queue)
        routes = Routes.model_validate(
            {
                "default": "stable",
                "variants": {"stable": {"version": "1", "weight": 1}},
                "shadow": {"version": "2", "percent": self.percent},
            }
        )
        self.fleet = Fleet(routes, MappingProxyType({"1": self.primary, "2": self.shadow}))
        self.shadowing = Shadowing(self.metrics, busy=lambda: self.busy)

    def offer(self, *, windows: int = 1, samples: int = 16, heard: int = 1, by: Loaded | None = None) -> None:
        sound = SimpleNamespace(samples=np.zeros(samples, np.float32))
        clip = _Clip(windows, sound.samples)
        self.shadowing.offer(self.fleet, by or self.primary, cast("Windows", clip), heard)

    def counted(self) -> dict[str, float]:
        """By result, those that are not 0."""
        samples = [sample for metric in self.metrics.shadow.collect() for sample in metric.samples]
        return {s.labels["result"]: s.value for s in samples if s.name == "timbre_shadow_total" and s.value}


@dataclass
class _Clip:
    length: int
    samples: np.ndarray

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, rows: slice) -> list[int]:
        return list(range(self.length))[rows]


def loaded(version: str, queue: Queue) -> Loaded:
    session = SimpleNamespace(metadata=SimpleNamespace(labels=LABELS))
    return cast("Loaded", SimpleNamespace(version=version, session=session, batcher=queue))


def now() -> float:
    return asyncio.get_running_loop().time()


def played(scene: Scene, play: Callable[[], Any]) -> dict[str, float]:
    """What was counted, a minute after the play."""

    async def main() -> dict[str, float]:
        await play()
        await asyncio.sleep(60)
        return scene.counted()

    return run_virtually(main())


@pytest.mark.parametrize(("heard", "result"), [(1, "agree"), (0, "disagree")])
def test_what_was_answered_is_compared_after_the_answer_has_gone(heard: int, result: str) -> None:
    scene = Scene()

    async def play() -> None:
        scene.offer(windows=3, heard=heard)
        assert not scene.queue.asked  # whoever offers waits for nothing

    assert played(scene, play) == {result: 1}
    assert scene.queue.asked == pytest.approx([0.005, 0.105, 0.205])


def test_what_the_shadow_s_own_version_answered_is_not_compared_with_itself() -> None:
    scene = Scene()

    async def play() -> None:
        scene.offer(by=scene.shadow)

    assert played(scene, play) == {}
    assert scene.queue.asked == []


@pytest.mark.parametrize("reason", ["requests", "queue"])
def test_nothing_runs_while_anything_else_does_and_what_waits_too_long_is_dropped(reason: str) -> None:
    scene = Scene()

    async def play() -> None:
        scene.busy, scene.queue.idle = reason == "requests", reason != "queue"
        scene.offer()
        await asyncio.sleep(4.9)
        assert scene.counted() == {}
        await asyncio.sleep(0.2)
        assert scene.counted() == {"dropped": 1}
        scene.busy, scene.queue.idle = False, True

    assert played(scene, play) == {"dropped": 1}
    assert scene.queue.asked == []


def test_a_request_that_comes_in_between_waits_for_one_window_at_most() -> None:
    scene = Scene()

    async def play() -> None:
        scene.offer(windows=5)
        await asyncio.sleep(0.15)  # the second is running
        scene.busy = True
        await asyncio.sleep(2)
        assert len(scene.queue.asked) == 2
        scene.busy = False

    assert played(scene, play) == {"agree": 1}
    assert len(scene.queue.asked) == 5


def test_under_load_it_is_dropped_first() -> None:
    scene = Scene(busy=True)

    async def play() -> None:
        for _ in range(32):
            scene.offer()
        assert scene.counted() == {}
        scene.offer()  # one more than may wait
        assert scene.counted() == {"dropped": 1}
        scene.busy = False

    assert played(scene, play) == {"agree": 32, "dropped": 1}


def test_so_much_sound_may_wait() -> None:
    scene = Scene(busy=True)

    async def play() -> None:
        scene.offer(samples=1 << 22)
        scene.offer(samples=1)
        assert scene.counted() == {"dropped": 1}
        scene.busy = False
        await asyncio.sleep(1)
        scene.offer(samples=1 << 22)  # what was heard makes room

    assert played(scene, play) == {"agree": 2, "dropped": 1}


def test_a_version_that_fails_is_counted_and_the_next_is_heard() -> None:
    scene = Scene(error=RuntimeError("no memory"))

    async def play() -> None:
        scene.offer()
        await asyncio.sleep(1)
        scene.queue.error = None
        scene.offer()

    assert played(scene, play) == {"failed": 1, "agree": 1}


@pytest.mark.parametrize(("percent", "least", "most"), [(0, 0, 0), (25, 210, 290), (100, 1000, 1000)])
def test_it_hears_its_share(monkeypatch: pytest.MonkeyPatch, percent: float, least: int, most: int) -> None:
    monkeypatch.setattr("random.random", random.Random(7).random)
    scene = Scene(percent=percent)

    async def play() -> None:
        for _ in range(1000):
            scene.offer()
            await asyncio.sleep(1)

    assert least <= sum(played(scene, play).values()) <= most
