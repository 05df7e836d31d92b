"""What a client needs of a way to the service."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serving.client.answers import Message, Prediction

CONNECT_S = 5.0
"""Longest time for a connection to be made, seconds."""


@dataclass(frozen=True)
class Options:
    """What may be asked of a prediction.

    Attributes:
        version: the version that shall answer; any by its weight where None.
        key: any user or session id; it always gets the same variant.
        min_confidence: below it no emotion is named.
        hop_s: of a live stream, seconds between two measurements; the model's own where None.
    """

    version: str | None = None
    key: str | None = None
    min_confidence: float = 0.0
    hop_s: float | None = None


@dataclass(frozen=True)
class Tls:
    """Files in PEM for https:// and grpcs://.

    Attributes:
        ca: whose certificates are trusted; the system's authorities where None.
        cert, key: the client's own certificate and its key, where the service asks for one.

    Raises:
        ValueError: a certificate without its key, or the other way round.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError(f"A certificate and its key belong together; only {self.cert or self.key} is given.")

    def context(self) -> ssl.SSLContext:
        """For HTTP and WebSocket.

        Raises:
            OSError: a file cannot be read, is not PEM, or the key is not the certificate's.
        """
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert:
            context.load_cert_chain(self.cert, self.key)
        return context


def authorization(api_key: str | None) -> dict[str, str]:
    """The header, or gRPC's metadata, that carries an API key; empty where there is none.

    Raises:
        ValueError: it has characters that no header takes.
    """
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("The API key has a line break or characters beyond ASCII, which no key has. Copy it again.")
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


class Stream(Protocol):
    """A live stream."""

    async def send(self, frame: bytes) -> None:
        """16-bit little-endian mono samples.

        Raises:
            Unreachable: the stream has broken.
        """

    async def end(self) -> None:
        """No more frames come."""

    async def receive(self) -> Message | None:
        """The next message; None when the stream is over.

        Raises:
            RequestError: the service ends the stream with this.
            Unreachable: the stream has broken.
        """

    async def close(self) -> None:
        """Let go of it, whatever state it is in."""


class Transport(Protocol):
    """A way to the service. Each call is one attempt.

    Raises:
        RequestError: the service refuses.
        Unreachable: there is no connection, or it broke.
        UnexpectedAnswer: what answers is not the service.
    """

    async def predict(self, data: bytes, filename: str | None, options: Options) -> Prediction:
        """The answer to one encoded file."""

    async def models(self) -> dict[str, Any]:
        """What is loaded, how traffic goes, and what each version says of itself."""

    async def listen(self, rate_hz: int, options: Options) -> Stream:
        """A live stream that takes frames of this rate."""

    async def close(self) -> None:
        """Close the connections."""
