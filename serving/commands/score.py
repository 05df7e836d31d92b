"""``score DIR --out x.parquet``"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from serving.commands.options import FAILED, MODELS, Models, Version, exit_codes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving.scoring.run import Run
    from serving.scoring.scorer import Row

_LISTED = 50  # bad files that are listed; the table has them all


class Engine(enum.StrEnum):
    """What runs the function."""

    processes = "processes"
    ray = "ray"


Folder = Annotated[str, typer.Argument(metavar="DIR", help="Folder with audio files; any place that fsspec knows.")]
Out = Annotated[str, typer.Option(help="The table: .parquet, .csv or .jsonl; any place that fsspec knows.")]
EngineOption = Annotated[Engine, typer.Option(help="The cores of this machine, or Ray Data.")]
Address = Annotated[str | None, typer.Option(help="The Ray cluster; else RAY_ADDRESS, else one on this machine.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes; 0 for one per core.")]
Longest = Annotated[float, typer.Option(min=0, help="Longest recording, seconds.")]


def score(
    folder: Folder,
    out: Out,
    engine: EngineOption = Engine.processes,
    address: Address = None,
    workers: Workers = 0,
    models: Models = MODELS,
    version: Version = None,
    max_duration_s: Longest = 3600.0,
) -> None:
    """Hear a whole archive: one row per file. Stopped and started again, it goes on where it was.

    Beside the table stands its journal (OUT.journal): files that are new or have changed are heard by the next run, the
    others are not; delete it to begin anew. Exit code 1 where some file failed: the table's column `error` says which.
    """
    from serving.audio import Limits
    from serving.commands.sources import chosen_version
    from serving.errors import UsageError
    from serving.scoring.run import Run

    with exit_codes():
        if address and engine is not Engine.ray:
            raise UsageError("--address is a Ray cluster's: it goes with --engine ray.")
        model = models / chosen_version(models, version, "Use --models /path/to/exported.")
        with Run.begin(folder, out, model, Limits(max_duration_s=max_duration_s)) as run:
            _show(run, run.on_ray(address) if engine is Engine.ray else run.in_processes(workers))
            run.write()
            bad = run.bad()
    typer.echo(f"{len(run.items)} files, {len(bad)} of them bad, {run.before} scored before: {out}", err=True)
    if bad:
        _list(bad)
        raise typer.Exit(FAILED)


def _show(run: Run, rows: Iterator[Row]) -> None:
    """Go through with it, under a progress bar that counts the bad ones."""
    from serving.commands.telling import bars

    with bars() as progress:
        task = progress.add_task("Scoring", total=len(run.items), completed=run.before)
        bad = 0
        for row in rows:
            bad += row["error"] is not None
            progress.update(task, advance=1, description=f"Scoring, {bad} bad" if bad else "Scoring")


def _list(bad: list[Row]) -> None:
    from serving.commands.telling import why

    for row in bad[:_LISTED]:
        typer.echo(why(row["path"], {"code": row["error"], "message": row["message"]}), err=True)
    if len(bad) > _LISTED:
        typer.echo(f"... and {len(bad) - _LISTED} more: see the column `error`.", err=True)
