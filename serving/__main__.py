"""python -m serving serve"""

from __future__ import annotations

import sys

import typer

from serving.errors import SettingsError, TimbreError
from serving.server import run
from serving.settings import Settings

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Timbre hears a voice and says which emotion is in it."
)


@app.callback()
def main() -> None:
    """Only so that a single command still has a name."""


@app.command()
def serve() -> None:
    """Answer HTTP until told to stop. Settings come from TIMBRE_* variables; README lists them."""
    try:
        run(Settings.from_environment())
    except TimbreError as error:
        print(f"Timbre does not start. {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, SettingsError) else 1) from None


if __name__ == "__main__":
    app()
