"""Clients that ask steadily, each from a thread of its own, while something happens to the service."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Self

import grpc
import httpx

Ask = Callable[[], None]
"""One request; an answer that is an error raises."""


class Steady:
    """As a context manager: one client per way to ask, until its end; ``pause_s`` lies between its requests.

    They ask steadily and not as fast as it goes, because what is tested often starts processes on the same cores.
    """

    def __init__(self, asks: Sequence[Ask], pause_s: float = 0.02) -> None:
        self.answered: Counter[Ask] = Counter()
        self.failed: list[str] = []
        self._pause_s, self._over = pause_s, threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(ask,)) for ask in asks]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _client(self, ask: Ask) -> None:
        while not self._over.is_set():
            try:
                ask()
            except (httpx.HTTPError, grpc.RpcError) as error:
                self.failed.append(repr(error))
            else:
                self.answered[ask] += 1
            time.sleep(self._pause_s)
