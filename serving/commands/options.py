"""Options that several commands have, where answers come from, and how errors become exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from serving.errors import SettingsError, TimbreError, UnknownVersion, UsageError

FAILED, USAGE = 1, 2
"""Exit codes beside 0: some file failed; asked for something impossible."""

_WRONG = (UsageError, SettingsError, UnknownVersion)

API_KEY = "TIMBRE_API_KEY"
"""The variable that has what ``--api-key`` says."""

Url = Annotated[
    str | None,
    typer.Option(help="The service that is asked, http://HOST:3000 or grpc://HOST:3001; none: answered here."),
]
Ca = Annotated[Path | None, typer.Option(help="Whose certificates are trusted over https:// and grpcs://, a PEM file.")]
Cert = Annotated[Path | None, typer.Option(help="This client's own certificate, where the service wants one: PEM.")]
Key = Annotated[Path | None, typer.Option(help="The certificate's private key, a PEM file.")]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar=API_KEY, show_default=False, help="Who asks, where the service wants an API key."),
]
Models = Annotated[Path, typer.Option(envvar="TIMBRE_MODELS", help="Folder with the exported versions.")]
Version = Annotated[str | None, typer.Option(help="The version that answers; else the default of routes.yaml.")]
Confidence = Annotated[float, typer.Option(min=0, max=1, help="Below this probability no emotion is named.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON in place of a table.")]

MODELS = Path("exported")
ELSEWHERE = "Use --url http://HOST:3000 to ask a service, or --models /path/to/exported."
"""What to do where there is no model here."""


@contextmanager
def exit_codes() -> Iterator[None]:
    """Errors end the command with a sentence and its exit code, not with a traceback."""
    try:
        yield
    except TimbreError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(USAGE if isinstance(error, _WRONG) else FAILED) from None
    except BrokenPipeError:
        raise  # whoever reads our output has had enough, and Typer ends in silence
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        typer.echo(f"{place}{error.strerror or error}.", err=True)
        raise typer.Exit(FAILED) from None
