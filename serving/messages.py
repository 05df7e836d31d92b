"""What goes over a live stream: the messages of ``/v1/listen``, and the same by gRPC's ``Listen``.

The client opens ``ws://HOST/v1/listen?rate_hz=16000`` (also ``min_confidence``, ``version``, ``key`` and ``hop_s``) and
sends binary frames: 16-bit little-endian mono samples. The text message ``{"type": "end"}`` says that no more come:
what was begun is answered, and the server closes. It sends text: one JSON object each, told apart by ``type``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from serving.schemas import ErrorDetail, Prediction


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class End(_Message):
    """From the client: no more frames come."""

    type: Literal["end"] = "end"


class SessionMessage(_Message):
    """The first message."""

    type: Literal["session"] = "session"
    rate_hz: int = Field(description="The rate of the frames, as asked for.")
    model_version: str = Field(description="The version that answers.")
    hop_s: float = Field(description="Seconds between two measurements of an utterance.")
    window_s: float = Field(description="Seconds of speech that a measurement hears at most.")
    emotions: list[str] = Field(description="The emotions that are told apart.")


class UtteranceStart(_Message):
    """Somebody speaks."""

    type: Literal["utterance.start"] = "utterance.start"
    utterance: int = Field(description="Counted from 1.")
    start_s: float = Field(description="Since the stream's first sample, seconds.")


class Measurement(_Message):
    """What the newest window of the current utterance expresses."""

    type: Literal["measurement"] = "measurement"
    utterance: int
    start_s: float = Field(description="The window's start, since the stream's first sample, seconds.")
    end_s: float = Field(description="The window's end.")
    emotion: str | None = Field(description="The most probable emotion; null below min_confidence.")
    confidence: float = Field(description="Its probability.")
    all_emotions: dict[str, float] = Field(description="Probability of each emotion; they sum to 1.")


class UtteranceEnd(_Message):
    """The utterance is over; its prediction is what ``/predict`` says of its samples."""

    type: Literal["utterance.end"] = "utterance.end"
    utterance: int
    start_s: float
    end_s: float
    start_sample: int = Field(description="The utterance's first sample within the stream, at the frames' rate.")
    end_sample: int = Field(description="The first sample after it.")
    prediction: Prediction
    variant: str = Field(description="The variant that answered.")
    request_id: str = Field(description="What `/feedback` takes.")


class ErrorMessage(_Message):
    """A refusal: of something of the utterance that it names, and the stream goes on; or of the stream, which closes.

    Before the utterance's ``utterance.end`` it was one measurement that was refused; an utterance that has none was
    refused as a whole.
    """

    type: Literal["error"] = "error"
    error: ErrorDetail
    utterance: int | None = None


Message = SessionMessage | UtteranceStart | Measurement | UtteranceEnd | ErrorMessage
"""What the server sends."""

MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])
"""Reads what the server sends: ``MESSAGE.validate_json(text)``."""
