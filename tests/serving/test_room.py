from __future__ import annotations

from contextlib import ExitStack
from threading import Event, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Overloaded
from serving.metrics import Metrics
from serving.room import Holding, Room

MOST = 100


def room(metrics: Metrics) -> Room:
    return Room(MOST, metrics.upload_bytes, what="requests", reason="uploads")


def held(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("timbre_upload_bytes") or 0.0


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), max_size=40))
def test_there_is_never_more_than_may_be_and_all_of_it_is_given_back(steps: list[tuple[int, int]]) -> None:
    metrics = Metrics()
    uploads = room(metrics)
    with ExitStack() as stack:
        takes = [stack.enter_context(uploads.holding()) for _ in range(4)]
        taken = [0] * 4
        for who, size in steps:
            others = sum(taken) - taken[who]
            if others and sum(taken) + size > MOST:
                with pytest.raises(Overloaded) as caught:
                    takes[who](size)
                assert caught.value.details["reason"] == "uploads"
            else:
                takes[who](size)
                taken[who] += size
            assert held(metrics) == sum(taken)
            assert sum(taken) <= MOST or sum(map(bool, taken)) == 1
    assert held(metrics) == 0


def test_one_alone_may_be_as_long_as_a_body_may_be() -> None:
    uploads = room(Metrics())
    with uploads.holding() as first, uploads.holding() as second:
        first(3 * MOST)
        with pytest.raises(Overloaded, match="may be"):
            second(1)


def test_what_a_thread_holds_stays_counted_until_it_is_done() -> None:
    """The request whose time is over has left before it."""
    metrics = Metrics()
    decoded, entered, may_end = room(metrics), Event(), Event()

    def decode(held: Holding) -> None:
        with held as take:
            take(60)
            entered.set()
            may_end.wait(20)

    with decoded.holding() as take:
        thread = Thread(target=decode, args=(take,))
        thread.start()
        assert entered.wait(20)
    assert held(metrics) == 60
    may_end.set()
    thread.join()
    assert held(metrics) == 0


def test_many_threads_never_hold_more_than_may_be() -> None:
    metrics = Metrics()
    decoded = room(metrics)
    refused: list[Overloaded] = []
    seen: list[float] = []

    def decode() -> None:
        for _ in range(200):
            try:
                with decoded.holding() as take:
                    take(40)
                    take(5)
                    seen.append(held(metrics))
            except Overloaded as error:
                refused.append(error)

    threads = [Thread(target=decode) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) + len(refused) == 1600
    assert seen
    assert max(seen) <= MOST
    assert held(metrics) == 0
