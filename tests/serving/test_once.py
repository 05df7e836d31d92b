"""What threads that come together share."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.once import once


def test_threads_that_ask_together_are_given_the_same() -> None:
    asking = threading.Barrier(8)

    @once
    def thing() -> object:
        time.sleep(0.05)  # in which the others ask
        return object()

    def ask() -> object:
        asking.wait()
        return thing()

    with ThreadPoolExecutor(8) as pool:
        given = [future.result() for future in [pool.submit(ask) for _ in range(8)]]
    assert len(set(given)) == 1


def test_what_could_not_be_made_is_tried_again() -> None:
    tries: list[int] = []

    @once
    def thing() -> int:
        tries.append(1)
        return 1 // (len(tries) - 1)

    with pytest.raises(ZeroDivisionError):
        thing()
    assert thing() == thing() == 1
    assert len(tries) == 2
