"""That the soak (`make soak`) would see what it looks for, and a few seconds of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service import running
from tests.soak import Look, Soak, grown


def looks(bytes_a_request: float = 0.0, descriptors: float = 0.0, threads: float = 0.0) -> list[Look]:
    return [
        Look(100 * n, int(200e6 + 100 * n * bytes_a_request), int(40 + n * descriptors), int(20 + n * threads))
        for n in range(1000)
    ]


def test_what_is_flat_is_not_told() -> None:
    assert grown(looks()) == []
    assert grown(looks(bytes_a_request=90)) == []


@pytest.mark.parametrize(
    ("told", "growing"),
    [
        ("memory grows by 1.20 MB", looks(bytes_a_request=120)),
        ("descriptors grow", looks(descriptors=0.1)),
        ("threads grow", looks(threads=0.1)),
    ],
)
def test_what_grows_is_told(told: str, growing: list[Look]) -> None:
    (only,) = grown(growing)
    assert told in only


class Drawn(Soak):
    """No traffic; its memory grows with every look for as long as is told."""

    def __init__(self, grows_s: float) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.grows_s = grows_s
        for client in ("_good", "_hostile", "_large", "_grpc", "_live", "_vanish"):
            setattr(self, client, lambda: None)

    def _look(self) -> Look:
        return Look(round(1e5 * self.lasted_s), round(1e8 * min(self.lasted_s, self.grows_s)), 40, 20)


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("grows_s", "lasts_s", "leaks"), [(0.0, 180, False), (70.0, 360, False), (160.0, 720, False), (1e9, 720, True)]
)
def test_what_seems_to_grow_is_looked_at_for_longer(
    grows_s: float, lasts_s: float, leaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warm-up ends, a leak does not."""
    monkeypatch.setattr("tests.soak.time", Clock())
    soak = Drawn(grows_s)
    seen = soak.run(180, longer=(2, 4))
    assert bool(grown(seen)) is leaks
    assert soak.lasted_s == lasts_s


def test_some_seconds_of_it_bring_what_is_expected(tmp_path: Path) -> None:
    """As many seconds as it takes until each kind of client has had an answer; those of `make soak` are minutes."""
    kinds: set[str] = set()
    seen: list[Look] = []
    with running(tmp_path / "log.txt") as service:
        for seconds in (6, 12, 24, 48, 96):  # to make what is large takes the first of them
            soak = Soak(service)
            seen += soak.run(seconds)
            assert soak.unexpected == []
            kinds |= {kind.split()[0] for kind in soak.outcomes}
            if len(kinds) == 6:
                break
    assert seen[-1].requests > 0
    assert kinds == {"http", "hostile", "large", "grpc", "live", "vanish"}
