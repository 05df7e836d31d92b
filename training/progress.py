"""A progress bar for long loops, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

OnProgress = Callable[[int, int], None]
"""Is told (done, total) as a long loop goes on."""


def no_progress(_done: int, _total: int) -> None:
    """For who does not want to know."""


@contextmanager
def progress(title: str, *, in_bytes: bool = False) -> Iterator[OnProgress]:
    """Show a bar while the block runs; the block calls what it is given with (done, total), from any thread."""
    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update
