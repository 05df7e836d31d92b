"""``predict FILES...``"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.commands.options import (
    FAILED,
    MODELS,
    ApiKey,
    AsJson,
    Ca,
    Cert,
    Confidence,
    Key,
    Models,
    Url,
    Version,
    exit_codes,
)
from serving.errors import told

if TYPE_CHECKING:
    from rich.table import Table

    from serving.commands.sources import Heard

Files = Annotated[list[Path], typer.Argument(help="Audio files.")]


def predict(
    files: Files,
    as_json: AsJson = False,
    url: Url = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    api_key: ApiKey = None,
    models: Models = MODELS,
    version: Version = None,
    min_confidence: Confidence = 0.0,
) -> None:
    """Which emotion is in each file: a table; with --json one object a line. Exit code 1 where some file failed."""
    from serving.commands.sources import Source, named
    from serving.commands.telling import tables, watched, why

    with exit_codes():
        source = Source(named(url, ca, cert, key, api_key), models, version)
        heard = watched(source.hear(files, min_confidence), len(files), "Hearing")
        if as_json:
            failures = 0
            for file, answer in zip(files, heard, strict=True):
                print(json.dumps(_as_json(file, answer)), flush=True)
                failures += isinstance(answer, Exception)
        else:
            answers: list[Heard] = []
            try:
                for answer in heard:
                    answers.append(answer)  # noqa: PERF402 - what was heard before the service went away is shown
            finally:
                failures = sum(isinstance(answer, Exception) for answer in answers)
                if answers:
                    tables().print(_as_table(files, answers))
                for file, answer in zip(files, answers, strict=False):
                    if isinstance(answer, Exception):
                        typer.echo(why(str(file), told(answer)), err=True)
    if failures:
        raise typer.Exit(FAILED)


def _as_json(file: Path, answer: Heard) -> dict[str, object]:
    if isinstance(answer, Exception):
        return {"file": str(file), "error": told(answer)}
    return {"file": str(file), **answer.as_dict()}


def _as_table(files: list[Path], answers: list[Heard]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from serving.commands.telling import bar

    table = Table("file", "emotion", "confidence", "", "seconds", "version")
    for file, answer in zip(files, answers, strict=False):
        name = escape(str(file))
        if isinstance(answer, Exception):
            table.add_row(name, f"[red]{told(answer)['code']}[/]")
        else:
            share = f"{answer.confidence:.2f}"
            whole = f"{answer.duration_s:.1f}"
            emotion = answer.emotion or "not sure"
            table.add_row(name, emotion, share, bar(answer.confidence), whole, answer.model_version)
    return table
