"""What a client gets: the same from a service over HTTP, over gRPC, and from a version in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from serving.errors import RequestError, UnexpectedAnswer, refusal

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True)
class Segment:
    """What one window of a clip expresses.

    Attributes:
        start_s, end_s: the window within the clip, seconds.
        emotion: the most probable one; None below ``min_confidence``.
        confidence: its probability.
        all_emotions: probability of each emotion; they sum to 1.
    """

    start_s: float
    end_s: float
    emotion: str | None
    confidence: float
    all_emotions: dict[str, float]


@dataclass(frozen=True)
class Timing:
    """Where the time went, milliseconds: decoding and cutting, waiting, the model's passes, and all together."""

    decode: float
    queue: float
    inference: float
    total: float


@dataclass(frozen=True)
class Prediction:
    """The answer to one clip.

    Attributes:
        emotion: the most probable one of the whole clip; None below ``min_confidence``.
        confidence: its probability.
        all_emotions: probability of each emotion; they sum to 1.
        filename: the file's name; None for bytes and samples.
        model_version: which exported version answered.
        duration_s: length of the clip, seconds.
        segments: the timeline: overlapping windows, without the silent ones.
        variant: the route that was taken; None without a service.
        request_id: what ``/feedback`` takes; None without a service.
    """

    emotion: str | None
    confidence: float
    all_emotions: dict[str, float]
    filename: str | None
    model_version: str
    duration_s: float
    segments: tuple[Segment, ...]
    timing_ms: Timing
    variant: str | None = None
    request_id: str | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any], variant: str | None = None, request_id: str | None = None) -> Prediction:
        """From the keys of the HTTP answer; more than this client knows may be there.

        Raises:
            UnexpectedAnswer: some are missing or of another kind.
        """
        try:
            return cls(
                emotion=told.get("emotion"),
                confidence=told["confidence"],
                all_emotions=dict(told["all_emotions"]),
                filename=told.get("filename"),
                model_version=told["model_version"],
                duration_s=told["duration_s"],
                segments=tuple(_pick(Segment, {"emotion": None, **segment}) for segment in told["segments"]),
                timing_ms=_pick(Timing, told["timing_ms"]),
                variant=variant,
                request_id=request_id,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _unlike("a prediction", error) from error

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Session:
    """The first message of a live stream.

    Attributes:
        rate_hz: of the frames, as asked for.
        model_version: which version answers.
        hop_s: time between two measurements of an utterance, seconds.
        window_s: how much speech a measurement hears at most, seconds.
        emotions: those that are told apart.
    """

    type: ClassVar[str] = "session"
    rate_hz: int
    model_version: str
    hop_s: float
    window_s: float
    emotions: tuple[str, ...]


@dataclass(frozen=True)
class UtteranceStart:
    """Somebody speaks; utterances are counted from 1, times are seconds since the stream's first sample."""

    type: ClassVar[str] = "utterance.start"
    utterance: int
    start_s: float


@dataclass(frozen=True)
class Measurement:
    """What the newest window of the current utterance expresses; the window's times are the stream's, seconds."""

    type: ClassVar[str] = "measurement"
    utterance: int
    start_s: float
    end_s: float
    emotion: str | None
    confidence: float
    all_emotions: dict[str, float]


@dataclass(frozen=True)
class UtteranceEnd:
    """The utterance is over. ``prediction`` is what ``predict`` says of its samples, from start to before end."""

    type: ClassVar[str] = "utterance.end"
    utterance: int
    start_s: float
    end_s: float
    start_sample: int
    end_sample: int
    prediction: Prediction


@dataclass(frozen=True)
class UtteranceFailed:
    """Something of one utterance was refused; the stream goes on.

    That was a measurement where the :class:`UtteranceEnd` still comes; where none does, it was the utterance itself.
    """

    type: ClassVar[str] = "error"
    utterance: int
    error: RequestError | UnexpectedAnswer


Message: TypeAlias = Session | UtteranceStart | Measurement | UtteranceEnd | UtteranceFailed


def message(told: Mapping[str, Any]) -> Message:
    """A live stream's message from its JSON; more keys than this client knows may be there.

    Raises:
        RequestError: the stream is refused, or it has ended with an error.
        UnexpectedAnswer: it is no such message.
    """
    try:
        return _message(told)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unlike("a message of a live stream", error) from error


def _message(told: Mapping[str, Any]) -> Message:
    match told["type"]:
        case Session.type:
            return _pick(Session, {**told, "emotions": tuple(told["emotions"])})
        case UtteranceStart.type:
            return _pick(UtteranceStart, told)
        case Measurement.type:
            return _pick(Measurement, {"emotion": None, **told})
        case UtteranceEnd.type:
            heard = Prediction.of(told["prediction"], told.get("variant"), told.get("request_id"))
            return _pick(UtteranceEnd, {**told, "prediction": heard})
        case UtteranceFailed.type if told.get("utterance") is not None:
            return UtteranceFailed(told["utterance"], refusal(**told["error"]))
        case UtteranceFailed.type:
            raise refusal(**told["error"])
        case other:
            raise ValueError(other)


def _pick(kind: type[T], told: Mapping[str, Any]) -> T:
    """An object of a dataclass from those keys that it has."""
    return kind(**{field.name: told[field.name] for field in dataclasses.fields(kind) if field.name in told})


def _unlike(what: str, error: Exception) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"What came is not {what} as this client knows it ({error!r}). Is this the service's address, and is the "
        "service of this release?"
    )
