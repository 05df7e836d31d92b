"""Timbre from Python: a service by its address, or a saved version without any service.

    from serving.client import AsyncClient, Client, load

    Client("http://localhost:3000").predict("clip.wav").emotion
    load("exported/1")("clip.wav").emotion

Both answer with the same :class:`Prediction` and raise the same errors of ``serving.errors``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from serving.client.answers import (
    Measurement,
    Message,
    Prediction,
    Segment,
    Session,
    Timing,
    UtteranceEnd,
    UtteranceFailed,
    UtteranceStart,
)
from serving.client.asynchronous import AsyncClient
from serving.client.clips import ClipLike
from serving.client.retries import Retries
from serving.client.synchronous import Client

if TYPE_CHECKING:
    from serving.audio import Limits
    from serving.client.local import Local

__all__ = [
    "AsyncClient",
    "Client",
    "ClipLike",
    "Measurement",
    "Message",
    "Prediction",
    "Retries",
    "Segment",
    "Session",
    "Timing",
    "UtteranceEnd",
    "UtteranceFailed",
    "UtteranceStart",
    "load",
]


def load(path: str | Path, limits: Limits | None = None) -> Local:
    """A saved version as a function: ``load("exported/1")("clip.wav").emotion``.

    Args:
        path: the version's folder, whose checksum is verified; or its ``model.onnx`` alone, wherever it lies.
        limits: what audio is accepted; what the service accepts where None.

    Raises:
        ArtifactError: what is there is no version, or it is damaged.
        ModuleNotFoundError: the client alone is installed.
    """
    try:
        from serving.client.local import Local  # ONNX Runtime and the decoders: who asks a service needs neither
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}: a version without a service needs more than the client. Install Timbre with its extra 'local'.",
            name=error.name,
        ) from None

    return Local.load(Path(path), limits)
