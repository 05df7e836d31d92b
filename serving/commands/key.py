"""``key NAME``"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from serving.commands.options import exit_codes

Name = Annotated[str, typer.Argument(help="Who asks with it: letters, digits, - and _.")]
Scopes = Annotated[
    list[str], typer.Option("--scope", help="What it is for: predict, models, feedback, experiments, metrics.")
]
Rate = Annotated[float, typer.Option(min=0, help="Most calls a minute; 0 for as many as come.")]


def key(name: Name, scope: Scopes = ["predict"], per_minute: Rate = 0) -> None:  # noqa: B006 - Typer makes its own
    """A new API key: the key for who asks, which is shown once, and its line for TIMBRE_API_KEYS_FILE."""
    from pathlib import Path

    from serving.keys import hashed, new_key, parse

    with exit_codes():
        made = new_key()
        about = {"sha256": hashed(made), "scopes": sorted(set(scope)), "per_minute": per_minute}
        line = f"  {name}: {json.dumps(about)}"
        parse(f"keys:\n{line}", Path("key"))
        typer.echo(made)
        typer.echo(f"# below `keys:` in TIMBRE_API_KEYS_FILE; the key itself stands nowhere else\n{line}", err=True)
