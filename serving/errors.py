"""Every refusal the service can answer with: one small tree, no framework.

A request error carries the code word clients switch on, the HTTP status and the gRPC status name.
Transports translate; nobody else needs to know which transport a request came by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

UNREADABLE = "unreadable"
"""Code of a file that could not be read: it may be another time."""


class TimbreError(Exception):
    """Base of all errors this project raises on purpose."""


class SettingsError(TimbreError):
    """A ``TIMBRE_*`` variable is unknown or out of range; the service does not start."""


class AddressError(TimbreError):
    """The address cannot be listened on; the service does not start."""


class ArtifactError(TimbreError):
    """An exported version is missing, damaged or of another schema; it is not loaded."""


class RoutesError(TimbreError):
    """``routes.yaml`` says something impossible; what was loaded before stays."""


class RuntimeUnavailable(TimbreError):
    """``TIMBRE_RUNTIME`` asks for a device that cannot be used; the service does not start."""


class StartFault(TimbreError):
    """Something nobody has thought of went wrong at start; the service does not start, and the log has the rest."""


class Unreachable(TimbreError):
    """A client gets no connection to the service, or it broke before the answer was whole.

    Args:
        retry_after_s: after how long to try again, where somebody on the way has said so.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.details = {} if retry_after_s is None else {"retry_after_s": retry_after_s}


class UnexpectedAnswer(TimbreError):
    """What answered a client is not this service, or not of a release that the client understands."""


class UsageError(TimbreError):
    """A command is asked for something impossible: exit code 2."""


class RequestError(TimbreError):
    """A request that is refused.

    Args:
        message: what came, what is allowed, and what to do, in one or two sentences.
        details: further keys of the error body, JSON values only.
    """

    code: ClassVar[str]
    http_status: ClassVar[int]
    grpc_status: ClassVar[str]

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer: ``{"error": {"code", "message", ...}}``."""
        return {"error": {"code": self.code, "message": self.message, **self.details}}

    @property
    def line(self) -> str:
        """Code word and message in one text, for protocols whose errors are a text."""
        return f"{self.code}: {self.message}"

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of the answer: when to come again, where that helps, and by what id the log tells of it."""
        told = {"Retry-After": self.details.get("retry_after_s"), "X-Request-ID": self.details.get("request_id")}
        return {name: str(value) for name, value in told.items() if value is not None}


class InvalidRequest(RequestError):
    code, http_status, grpc_status = "invalid_request", 422, "INVALID_ARGUMENT"


class MissingFile(RequestError):
    code, http_status, grpc_status = "missing_file", 422, "INVALID_ARGUMENT"


class TooManyFiles(RequestError):
    code, http_status, grpc_status = "too_many_files", 422, "INVALID_ARGUMENT"


class EmptyAudio(RequestError):
    code, http_status, grpc_status = "empty_audio", 422, "INVALID_ARGUMENT"


class AudioTooShort(RequestError):
    code, http_status, grpc_status = "audio_too_short", 422, "INVALID_ARGUMENT"


class NoSpeech(RequestError):
    code, http_status, grpc_status = "no_speech", 422, "INVALID_ARGUMENT"


class BadSamples(RequestError):
    code, http_status, grpc_status = "bad_samples", 422, "INVALID_ARGUMENT"


class UnsupportedMediaType(RequestError):
    code, http_status, grpc_status = "unsupported_media_type", 415, "INVALID_ARGUMENT"


class UnsupportedAudio(RequestError):
    code, http_status, grpc_status = "unsupported_audio", 415, "INVALID_ARGUMENT"


class TooLarge(RequestError):
    code, http_status, grpc_status = "too_large", 413, "RESOURCE_EXHAUSTED"


def too_large(max_bytes: int) -> TooLarge:
    """The refusal of an upload over the limit, the same by every transport."""
    return TooLarge(
        f"The upload is over {max_bytes} bytes. Send a compressed format (FLAC, OGG, MP3) or cut it.",
        max_bytes=max_bytes,
    )


class AudioTooLong(RequestError):
    code, http_status, grpc_status = "audio_too_long", 413, "INVALID_ARGUMENT"


class NotFound(RequestError):
    code, http_status, grpc_status = "not_found", 404, "NOT_FOUND"


class MethodNotAllowed(RequestError):
    code, http_status, grpc_status = "method_not_allowed", 405, "UNIMPLEMENTED"


class UpgradeRequired(RequestError):
    """A path that is a WebSocket is asked as if it were a page."""

    code, http_status, grpc_status = "upgrade_required", 426, "UNIMPLEMENTED"

    @property
    def headers(self) -> dict[str, str]:
        """To what, as RFC 9110 (15.5.22) wants it."""
        return super().headers | {"Upgrade": "websocket", "Connection": "Upgrade"}


class UploadTimeout(RequestError):
    code, http_status, grpc_status = "upload_timeout", 408, "DEADLINE_EXCEEDED"


class HeadTooLarge(RequestError):
    """The request line and headers of a request are more than any client sends."""

    code, http_status, grpc_status = "head_too_large", 431, "RESOURCE_EXHAUSTED"


class Starting(RequestError):
    code, http_status, grpc_status = "starting", 503, "UNAVAILABLE"


class InternalError(RequestError):
    """What a client hears of a fault of ours; the log has the rest."""

    code, http_status, grpc_status = "internal", 500, "INTERNAL"


class UnknownVersion(RequestError):
    """A version that is not loaded."""

    code, http_status, grpc_status = "unknown_version", 404, "NOT_FOUND"

    @classmethod
    def among(cls, version: str, loaded: Sequence[str]) -> Self:
        """Of ``version``, where those of ``loaded`` are."""
        return cls(
            f"Version {version[:40]!r} is not loaded; {', '.join(loaded)} {'is' if len(loaded) == 1 else 'are'}. "
            "GET /models lists them.",
            versions=list(loaded),
        )


class InvalidFeedback(RequestError):
    """Feedback on a request that was not answered here, or of an emotion that the model does not know."""

    code, http_status, grpc_status = "invalid_feedback", 422, "INVALID_ARGUMENT"


class Unauthenticated(RequestError):
    """No API key came, or one that is not known."""

    code, http_status, grpc_status = "unauthenticated", 401, "UNAUTHENTICATED"


class Forbidden(RequestError):
    """An API key came that is not for this, or another site's page asks."""

    code, http_status, grpc_status = "forbidden", 403, "PERMISSION_DENIED"


class RateLimited(RequestError):
    """An API key has used up its rate."""

    code, http_status, grpc_status = "rate_limited", 429, "RESOURCE_EXHAUSTED"


class Overloaded(RequestError):
    """More work than the service takes at a time.

    Its detail ``reason`` says what is full: permits, queue, uploads, decoded, decoders, streams, connections.
    """

    code, http_status, grpc_status = "overloaded", 429, "RESOURCE_EXHAUSTED"


class DeadlineExceeded(RequestError):
    """The answer was not ready in time."""

    code, http_status, grpc_status = "deadline_exceeded", 504, "DEADLINE_EXCEEDED"


class InvalidFrame(RequestError):
    """A frame of a live stream is not such samples."""

    code, http_status, grpc_status = "invalid_frame", 422, "INVALID_ARGUMENT"


class IdleTimeout(RequestError):
    """A stream has sent nothing for too long."""

    code, http_status, grpc_status = "idle_timeout", 408, "DEADLINE_EXCEEDED"


class StreamTooLong(RequestError):
    """A live stream has lasted as long as one may."""

    code, http_status, grpc_status = "stream_too_long", 413, "RESOURCE_EXHAUSTED"


class SlowReader(RequestError):
    """The client of a live stream does not read what it is sent."""

    code, http_status, grpc_status = "slow_reader", 408, "RESOURCE_EXHAUSTED"


class VersionRetired(RequestError):
    """The version that answers a live stream is no longer routed."""

    code, http_status, grpc_status = "version_retired", 503, "UNAVAILABLE"


class NotReady(RequestError):
    """A routed version cannot answer."""

    code, http_status, grpc_status = "not_ready", 503, "UNAVAILABLE"


class Stopping(RequestError):
    """The service has been told to stop."""

    code, http_status, grpc_status = "stopping", 503, "UNAVAILABLE"

    @staticmethod
    def ends_stream() -> Stopping:
        """What the other end of a stream hears that is ended by the stop."""
        return Stopping("The service is stopping. Connect again: another replica goes on.", retry_after_s=1)


def refusal(code: str, message: str, **details: Any) -> RequestError | UnexpectedAnswer:
    """The error that a service has told by its code word, for clients to raise."""
    for error in RequestError.__subclasses__():
        if error.code == code:
            return error(message, **details)
    return UnexpectedAnswer(f"The service refuses with a code that this client does not know, {code!r}: {message}")


def told(error: Exception) -> dict[str, str]:
    """Code word and sentence of why a file has no answer, whatever stood in its way."""
    if isinstance(error, RequestError):
        return {"code": error.code, "message": error.message}
    if isinstance(error, OSError):
        return {"code": UNREADABLE, "message": f"{error.strerror or error}."}
    return {"code": "failed", "message": str(error) or type(error).__name__}


def missing(package: str, what: str) -> UsageError:
    """Something optional is asked for and not installed."""
    return UsageError(
        f"{what} needs the package {package}, which is not installed. `make extras` installs it, and where Timbre is "
        f"a package itself, `pip install {package}`."
    )
