"""python -m benchmarks COMMAND: what the service costs, measured; results are written to benchmarks/results."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.record import FOLDER

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

Out = Annotated[Path, typer.Option(help="Where results are written.")]
Url = Annotated[str, typer.Option(help="A service that runs already, such as http://host:3000; else one is started.")]
Grpc = Annotated[str, typer.Option(help="Its gRPC address; port 3001 of the same host unless told, 'none' for none.")]
Scale = Annotated[float, typer.Option(min=0.01, help="Of every duration: 0.2 for a look, 5 for narrow intervals.")]


@app.command()
def run(
    out: Out = FOLDER,
    only: Annotated[
        list[str] | None, typer.Option(help="A part; may be given several times. All where it is not.")
    ] = None,
    url: Url = "",
    grpc: Grpc = "",
    scale: Scale = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Of the peers, interleaved.")] = 3,
    seed: int = 0,
    fresh: Annotated[bool, typer.Option(help="Go on with no run that was stopped today; begin a file.")] = False,
) -> None:
    """Measure, and write results, plots and tables; goes on where a run of this day and commit was stopped."""
    from benchmarks.bench import Bench
    from benchmarks.report import report
    from benchmarks.run import run as measure

    bench = Bench(url=url, grpc=grpc, scale=scale, rounds=rounds, seed=seed, say=_progress())
    try:
        with _stopping_tidily():
            path = measure(bench, out, only or (), fresh=fresh)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    print(report(path))
    if not url:
        print(f"To publish it, commit first, then: python -m benchmarks report {path} --readme")


@app.command()
def report(results: Path, readme: Annotated[bool, typer.Option(help="Put the table into README too.")] = False) -> None:
    """Tables and plots of a results file once more, and `benchmarks/capacity.md`; nothing is measured."""
    from benchmarks.report import into_readme
    from benchmarks.report import report as write

    print(write(results, capacity=readme))
    if readme:
        into_readme(results)


@app.command()
def soak(
    seconds: Annotated[float, typer.Argument(min=1)] = 1800.0,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Of capacity.")] = 0.7,
    out: Out = FOLDER,
    url: Url = "",
    grpc: Grpc = "",
) -> None:
    """Load that goes on: memory and p99 over time."""
    from benchmarks.bench import Bench
    from benchmarks.plots import plot_soak
    from benchmarks.soak import soak as measure

    with _stopping_tidily():
        path = measure(Bench(url=url, grpc=grpc, say=_progress()), out, seconds, share)
    plot_soak(path)
    print(path)


@app.command()
def refusals(out: Out = FOLDER, rounds: int = 3, seconds: float = 6.0) -> None:
    """More clients than permits: how soon they are refused, and the latency of those admitted."""
    from benchmarks.refusals import refusals as measure
    from benchmarks.refusals import table

    with _stopping_tidily():
        print(table(measure(out, rounds, seconds)["cases"]))


@app.command()
def live(out: Out = FOLDER, rounds: int = 3, seconds: float = 30.0) -> None:
    """How soon measurements of live streams are out, at 1 to 40 streams in real time."""
    from benchmarks.live import live as measure
    from benchmarks.live import table

    with _stopping_tidily():
        print(table(measure(out, rounds, seconds)))


@app.command()
def check(before: Path, after: Path, tolerance: float | None = None) -> None:
    """Compare two results files by their ratios; exits 1 where one is worse, 2 where they cannot be compared."""
    from benchmarks.check import TOLERANCE, NotComparableError
    from benchmarks.check import check as compare

    try:
        table, failed = compare(before, after, TOLERANCE if tolerance is None else tolerance)
    except NotComparableError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    print(table)
    if failed:
        print(f"Worse: {', '.join(failed)}.", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def peers() -> None:
    """Install every peer into an environment of its own; one that does not install is told, and left out of runs."""
    from benchmarks.peers.environments import install, names

    for name in names():
        print(f"{name} ... ", end="", flush=True)
        print(install(name) or "ready")


@app.command()
def disagreement(data: Path, out: Out = FOLDER) -> None:
    """How often the exported versions differ on RAVDESS (DATA has its folders Actor_08 and Actor_17)."""
    from benchmarks.disagreement import disagreement as measure

    print(measure(out, data))


@contextmanager
def _stopping_tidily() -> Iterator[None]:
    """SIGTERM, and Ctrl-C in the background too, end this program as an exception does: what it started is stopped.

    SIGTERM comes as Ctrl-C does, which asyncio turns into the cancelling of its main task: an exception in the middle
    of any callback would leave its loop in pieces.
    """
    told: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        told.append(number)
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(128 + next(iter(told), signal.SIGINT)) from None


def _progress() -> Callable[[str], None]:
    """Lines with the time since the start."""
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {text}", flush=True)

    return say


if __name__ == "__main__":
    app()
