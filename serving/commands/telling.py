"""How answers look in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

_BAR = 20  # characters
_WIDE = 240  # columns where there is no terminal: a file or a pipe cuts nothing off


def tables() -> Console:
    """Where results go: standard output."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDE)


def bar(share: float, width: int = _BAR) -> str:
    """A share from 0 to 1 as a bar, in eighths of a character."""
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def why(file: str, error: dict[str, str]) -> str:
    """The line about a file that has no answer."""
    return f"{file}: {error['code']}: {error['message']}"


def clock(seconds: float) -> str:
    """``1:02:03.5``; hours only where there are some."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def bars() -> Progress:
    """A progress bar on standard error, for people only: none where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def watched(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """The same items, with a progress bar while they come."""
    with bars() as progress:
        yield from progress.track(items, total=total, description=title)
