from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Overloaded
from serving.metrics import Metrics
from serving.uploads import Uploads

MOST = 100


def held(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("timbre_upload_bytes") or 0.0


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), max_size=40))
def test_there_is_never_more_than_may_be_and_all_of_it_is_given_back(steps: list[tuple[int, int]]) -> None:
    metrics = Metrics()
    uploads = Uploads(MOST, metrics)
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
    uploads = Uploads(MOST, Metrics())
    with uploads.holding() as first, uploads.holding() as second:
        first(3 * MOST)
        with pytest.raises(Overloaded, match="may be"):
            second(1)
