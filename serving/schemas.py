"""What goes out, the same by every transport."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from serving.router import Shadow, Variant


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Segment(_Answer):
    """What one window of a clip expresses."""

    start_s: float = Field(description="Start within the clip, seconds.")
    end_s: float = Field(description="End within the clip, seconds.")
    emotion: str | None = Field(description="The most probable emotion; null below min_confidence.")
    confidence: float = Field(description="Probability of the most probable emotion.")
    all_emotions: dict[str, float] = Field(description="Probability of each emotion; they sum to 1.")


class Timing(_Answer):
    """Where the request's time went, milliseconds."""

    decode: float = Field(description="Decoding, down-mixing, resampling and cutting.")
    queue: float = Field(description="Waiting for a free worker.")
    inference: float = Field(description="The model's forward passes.")
    total: float = Field(description="From the last byte of the request to the answer.")


class Prediction(_Answer):
    """The answer to one clip."""

    emotion: str | None = Field(description="The most probable emotion of the whole clip; null below min_confidence.")
    confidence: float = Field(description="Its probability.")
    all_emotions: dict[str, float] = Field(description="Probability of each emotion; they sum to 1.")
    filename: str | None = Field(description="As the client named the file; null for a raw body.")
    model_version: str = Field(description="Which exported version answered.")
    duration_s: float = Field(description="Length of the clip, seconds.")
    segments: list[Segment] = Field(description="The timeline: overlapping windows, without the silent ones.")
    timing_ms: Timing


class Health(_Answer):
    """Whether the service answers, and with what."""

    status: str
    model_version: str = Field(description="The default variant's version.")


class Model(_Answer):
    """One loaded version."""

    version: str
    variants: list[str] = Field(description="Names under which it is routed.")
    device: str = Field(description="What it runs on: cpu or cuda.")
    metadata: dict[str, Any] = Field(description="What the exported file says of itself: labels, rates, data, metrics.")


class Models(_Answer):
    """What is loaded and how traffic goes."""

    default: str
    variants: dict[str, Variant]
    shadow: Shadow | None
    models: list[Model]
    device: str
    note: str = Field(description="Why the device is not the one asked for; empty where it is.")
    problem: str = Field(description="Why the newest routes.yaml is not in force; empty where it is.")


class FeedbackIn(BaseModel):
    """The true emotion of an answered request."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(description="X-Request-ID of the answer.", max_length=512)
    emotion: str = Field(description="What it really was.", max_length=64)


class FeedbackOut(_Answer):
    """What became of it."""

    counted: bool = Field(description="False where this id had been counted before.")
    agreed: bool = Field(description="Whether the answer had said the same.")
    heard: str = Field(description="What the answer had said.")
    variant: str
    version: str


class ErrorDetail(BaseModel):
    """Why a request was refused. Some codes carry further keys with the figures."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(description="The word to switch on.")
    message: str = Field(description="What came, what is allowed, and what to do.")


class ErrorBody(BaseModel):
    """The body of every refusal."""

    error: ErrorDetail


def milliseconds(seconds: float) -> float:
    """As timings are told: to the microsecond."""
    return round(seconds * 1e3, 3)


def rounded(value: Any) -> float:
    """Six decimals: below the model's own precision, and readable."""
    return round(float(value), 6)
