"""``timeline long.wav``"""

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
from serving.errors import UsageError, missing, told

if TYPE_CHECKING:
    from rich.table import Table

    from serving.client import Prediction

Recording = Annotated[Path, typer.Argument(help="An audio file, as long as it may be.")]
Png = Annotated[Path | None, typer.Option(help="Save a picture of it here; needs matplotlib.")]
Longest = Annotated[float, typer.Option(min=0, help="Longest recording that is heard here, seconds.")]


def timeline(
    file: Recording,
    png: Png = None,
    as_json: AsJson = False,
    url: Url = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    api_key: ApiKey = None,
    models: Models = MODELS,
    version: Version = None,
    min_confidence: Confidence = 0.0,
    max_duration_s: Longest = 4 * 3600.0,
) -> None:
    """Emotions over time: one line per window of the recording, without the silent ones."""
    from serving.audio import Limits
    from serving.commands.sources import Source, named
    from serving.commands.telling import tables, why

    with exit_codes():
        if png is not None:
            _check_picture(png)
        limits = Limits(max_duration_s=max_duration_s)
        source = Source(named(url, ca, cert, key, api_key), models, version)
        (answer,) = source.hear([file], min_confidence, limits)
        if isinstance(answer, Exception):
            typer.echo(why(str(file), told(answer)), err=True)
            raise typer.Exit(FAILED)
        if as_json:
            print(json.dumps(answer.as_dict()))
        else:
            tables().print(_as_table(answer))
        if png is not None:
            from serving.commands.picture import save

            save(answer, png, file.name)


def _as_table(answer: Prediction) -> Table:
    from rich.table import Table

    from serving.commands.telling import bar, clock

    table = Table("from", "to", "emotion", "confidence", "")
    for segment in answer.segments:
        times = clock(segment.start_s), clock(segment.end_s)
        table.add_row(*times, segment.emotion or "not sure", f"{segment.confidence:.2f}", bar(segment.confidence))
    table.caption = (
        f"all of it: {answer.emotion or 'not sure'}, {answer.confidence:.2f}; version {answer.model_version}"
    )
    return table


def _check_picture(png: Path) -> None:
    """Before anything is heard: whether a picture can be made, and saved there."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise missing("matplotlib", "--png")
    if not png.absolute().parent.is_dir():
        raise UsageError(f"{png}: there is no such folder to save it in.")
