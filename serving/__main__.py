"""python -m serving serve"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

import typer

from serving.errors import SettingsError, TimbreError
from serving.server import run
from serving.settings import Settings
from serving.workers import run_workers

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Timbre hears a voice and says which emotion is in it."
)


@app.command()
def serve() -> None:
    """Answer HTTP until told to stop. Settings come from TIMBRE_* variables; README lists them."""
    _run(_serve)


@app.command(hidden=True)
def worker(socket_number: int) -> None:
    """One of several processes that `serve` starts; listens on a socket that it was given."""
    listener = socket.socket(fileno=os.dup(socket_number))
    _run(lambda settings: run(settings, listener))


def _serve(settings: Settings) -> None:
    if settings.workers > 1:
        run_workers(settings)
    else:
        run(settings)


def _run(action: Callable[[Settings], None]) -> None:
    try:
        action(Settings.from_environment())
    except TimbreError as error:
        print(f"Timbre does not start. {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, SettingsError) else 1) from None


if __name__ == "__main__":
    app()
