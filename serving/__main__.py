"""python -m serving serve | predict | listen | timeline | score | models | key"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

try:
    import typer
except ModuleNotFoundError as error:
    print(f"{error}: commands need more than the client. Install Timbre with its extra 'command'.", file=sys.stderr)
    raise SystemExit(2) from None

from serving.commands.key import key
from serving.commands.listen import listen
from serving.commands.models import models
from serving.commands.options import FAILED, USAGE
from serving.commands.predict import predict
from serving.commands.score import score
from serving.commands.timeline import timeline
from serving.errors import SettingsError, TimbreError, UsageError

if TYPE_CHECKING:
    from serving.settings import Settings

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Timbre hears a voice and says which emotion is in it. Exit codes: 0; 1 some file failed; 2 wrong usage.",
)


@app.command()
def serve() -> None:
    """Answer HTTP until told to stop. Settings come from TIMBRE_* variables; docs/settings.md lists them."""
    _run(_serve)


@app.command(hidden=True)
def worker(door: int, link: int, load_first: bool = False) -> None:
    """One of several processes that `serve` starts; it was given a socket that listens and one to its parent."""
    from serving.workers import run_worker

    _run(lambda settings: run_worker(settings, door, link, load_first=load_first))


for command in (predict, listen, timeline, score, models, key):
    app.command()(command)


def _serve(settings: Settings) -> None:
    try:
        from serving.server import run
    except ModuleNotFoundError as error:
        raise UsageError(
            f"`serve` runs from a checkout of Timbre: `make serve` there installs what it needs; {error.name} is not "
            "installed here. The other commands ask a service by --url."
        ) from None
    if settings.workers > 1:
        from serving.workers import run_workers

        raise typer.Exit(run_workers(settings))
    run(settings)


def _run(action: Callable[[Settings], None]) -> None:
    # The service is imported only by who starts one: it takes longer than most other commands do.
    from serving.settings import Settings

    try:
        action(Settings.from_environment())
    except TimbreError as error:
        print(f"Timbre does not start. {error}", file=sys.stderr)
        raise typer.Exit(USAGE if isinstance(error, SettingsError | UsageError) else FAILED) from None


if __name__ == "__main__":
    app()
