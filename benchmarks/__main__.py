"""python -m benchmarks COMMAND: each writes its results to benchmarks/results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.record import FOLDER

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

Out = Annotated[Path, typer.Option(help="Where results are written.")]


@app.command()
def offline(out: Out = FOLDER, repeats: int = 60) -> None:
    """What the parts cost without any server."""
    from benchmarks.offline import offline as measure
    from benchmarks.offline import table

    print(table(measure(out, repeats)))


@app.command()
def beside(out: Out = FOLDER, rounds: int = 3, seconds: float = 6.0) -> None:
    """The service beside its peers, in turn, at 1, 8 and 32 clients."""
    from benchmarks.beside import beside as measure
    from benchmarks.beside import table

    print(table(measure(out, rounds, seconds)["summary"]))


@app.command()
def refusals(out: Out = FOLDER, rounds: int = 3, seconds: float = 6.0) -> None:
    """More clients than permits: how soon they are refused, and the latency of those admitted."""
    from benchmarks.refusals import refusals as measure
    from benchmarks.refusals import table

    print(table(measure(out, rounds, seconds)["summary"]))


@app.command()
def live(out: Out = FOLDER, rounds: int = 3, seconds: float = 30.0) -> None:
    """How soon measurements of live streams are out, at 1 to 40 streams in real time."""
    from benchmarks.live import live as measure
    from benchmarks.live import table

    print(table(measure(out, rounds, seconds)))


@app.command()
def profile(out: Out = FOLDER, seconds: int = 15) -> None:
    """Where a request's time goes, by py-spy."""
    from benchmarks.profile import profile as measure

    print(measure(out, seconds)["shares"])


@app.command()
def disagreement(data: Path, out: Out = FOLDER) -> None:
    """How often the exported versions differ on RAVDESS (DATA has its folders Actor_08 and Actor_17)."""
    from benchmarks.disagreement import disagreement as measure

    print(measure(out, data))


if __name__ == "__main__":
    app()
