"""``listen [FILE]``"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.commands.options import FAILED, ApiKey, AsJson, Ca, Cert, Confidence, Key, Version, exit_codes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from serving.audio import Samples
    from serving.client import Message

Recording = Annotated[Path | None, typer.Argument(help="An audio file, heard at its own speed; else the microphone.")]
Address = Annotated[str, typer.Option(help="The service that is asked: http://HOST:3000 or grpc://HOST:3001.")]


def listen(
    file: Recording = None,
    url: Address = "http://localhost:3000",
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    version: Version = None,
    min_confidence: Confidence = 0.0,
) -> None:
    """Live: a bar per emotion while somebody speaks, a line per utterance; --json for every message. Ctrl-C ends it.

    Exit code 1 where an utterance has no answer; one that misses a measurement has.
    """
    from serving.commands.sounds import microphone
    from serving.commands.sources import Service

    refused: set[int] = set()
    with exit_codes(), Service.at(url, ca, cert, key, api_key).connect() as client:
        frames, rate_hz = microphone() if file is None else _recording(file)
        heard = client.listen(frames, rate_hz, version=version, min_confidence=min_confidence)
        messages = _noting(heard, refused)
        try:
            if as_json:
                for message in messages:
                    print(json.dumps(_as_json(message)), flush=True)
            else:
                _show(messages)
        except KeyboardInterrupt:
            pass  # whoever speaks into a microphone ends it so
    if refused:
        raise typer.Exit(FAILED)


def _recording(file: Path) -> tuple[Iterator[Samples], int]:
    """As :func:`serving.commands.sounds.recording`; a file that failed is told as the other commands tell it."""
    from serving.commands.sounds import recording
    from serving.commands.telling import why
    from serving.errors import RequestError, told

    try:
        return recording(file)
    except (OSError, RequestError) as error:
        typer.echo(why(str(file), told(error)), err=True)
        raise typer.Exit(FAILED) from None


def _noting(messages: Iterator[Message], refused: set[int]) -> Iterator[Message]:
    """The same messages; ``refused`` holds those of whom something was refused and no answer came."""
    from serving.client import UtteranceEnd, UtteranceFailed

    for message in messages:
        match message:
            case UtteranceFailed():
                refused.add(message.utterance)
            case UtteranceEnd():
                refused.discard(message.utterance)
        yield message


def _as_json(message: Message) -> dict[str, object]:
    from serving.client import UtteranceFailed
    from serving.errors import told

    if isinstance(message, UtteranceFailed):
        return {"type": message.type, "utterance": message.utterance, "error": told(message.error)}
    return {"type": message.type, **dataclasses.asdict(message)}


def _show(messages: Iterator[Message]) -> None:
    from rich.live import Live

    from serving.client import Measurement, Session, UtteranceEnd, UtteranceFailed, UtteranceStart
    from serving.commands.telling import clock, tables

    console = tables()
    nothing: dict[str, float] = {}
    with Live(console=console, transient=True) as live:
        for message in messages:
            match message:
                case Session():
                    nothing = dict.fromkeys(message.emotions, 0.0)
                    live.update(_bars("silence", nothing))
                case UtteranceStart():
                    live.update(_bars(f"{clock(message.start_s)} somebody speaks", nothing))
                case Measurement():
                    shares = {emotion: message.all_emotions[emotion] for emotion in nothing}
                    live.update(_bars(f"{clock(message.end_s)} {message.emotion or 'not sure'}", shares))
                case UtteranceEnd():
                    heard = message.prediction
                    span = f"{clock(message.start_s)} to {clock(message.end_s)}"
                    console.print(f"{span}  {heard.emotion or 'not sure'}, {heard.confidence:.2f}")
                    live.update(_bars("silence", nothing))
                case UtteranceFailed():
                    console.print(f"utterance {message.utterance}: {message.error}")
                    live.update(_bars("silence", nothing))


def _bars(title: str, shares: dict[str, float]) -> Table:
    from rich.table import Table

    from serving.commands.telling import bar

    table = Table("", title, "", box=None, min_width=60)
    for emotion, share in shares.items():
        table.add_row(emotion, bar(share, 40), f"{share:.2f}")
    return table
