"""The engine of one machine: a process per core."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ClassVar

from serving.scoring.scorer import Row, Scorer, failed

_AHEAD = 4  # files that wait for each process


def in_processes(make: Callable[[], Scorer], version: str, items: Iterable[Row], workers: int) -> Iterator[Row]:
    """Rows of the items, as they are ready.

    A file that kills its process, as a fault in a decoder's C code may, is found out: what was being heard when it
    happened is heard again one by one, each in a process of its own.

    Args:
        make: makes the function, in each process; can be pickled.
        version: what a row says that nothing came of.
    """
    left = iter(items)
    while suspects := (yield from _until_one_dies(make, left, workers)):
        for suspect in suspects:
            if (yield from _until_one_dies(make, iter([suspect]), 1)):
                yield failed(suspect, version, "crashed", "The process that heard it died: memory, or a decoder.")


def _until_one_dies(make: Callable[[], Scorer], items: Iterator[Row], workers: int) -> Generator[Row, None, list[Row]]:
    """Yields rows; returns the items that were lost when a process died, none where all went well."""
    pending: dict[Future[Row], Row] = {}
    # Started afresh and not forked: threads of ONNX Runtime and locks do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_Process.begin, initargs=(make,))
    try:
        for item in items:
            pending[pool.submit(_Process.score, item)] = item
            if len(pending) >= _AHEAD * workers:
                yield from _finished(pending)
        while pending:
            yield from _finished(pending)
    except BrokenProcessPool:
        return list(pending.values())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return []


def _finished(pending: dict[Future[Row], Row]) -> Iterator[Row]:
    """Rows of what is done, after waiting for one at least.

    Raises:
        BrokenProcessPool: a process has died; what it takes with it stays pending.
    """
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        row = future.result()
        del pending[future]
        yield row


class _Process:
    """What stands in each process of the pool."""

    scorer: ClassVar[Scorer]

    @classmethod
    def begin(cls, make: Callable[[], Scorer]) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
        threading.Thread(target=_die_with_parent, daemon=True).start()
        cls.scorer = make()

    @classmethod
    def score(cls, item: Row) -> Row:
        return cls.scorer(item)


def _die_with_parent() -> None:
    """A pool's processes would wait for work for ever after their parent was killed."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)
