"""True labels for answers given earlier: signed request ids that any replica can read, each counted once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from itsdangerous import BadSignature, SignatureExpired, TimestampSigner

from serving.errors import InvalidFeedback
from serving.metrics import MULTIPROCESS_DIR, Metrics

_VALID_S = 24 * 3600
_REMEMBERED = 200_000  # ids in memory; who sends more feedback than that in a day may count some twice. In files: all


@dataclass(frozen=True)
class Issued:
    """What an answer's id says of it."""

    variant: str
    version: str
    emotion: str


@dataclass(frozen=True)
class Verdict:
    """What became of one piece of feedback."""

    heard: Issued
    agreed: bool
    counted: bool


class Feedback:
    """Gives out ids and takes labels for them.

    Args:
        secret: signs the ids; replicas that share it accept each other's. Empty: one of this process alone.
        seen: where ids that were counted are remembered.
    """

    def __init__(self, secret: str, metrics: Metrics, seen: Seen) -> None:
        self._signer = TimestampSigner(
            secret or secrets.token_hex(32), salt="timbre.feedback", digest_method=hashlib.sha256
        )
        self._metrics, self._seen = metrics, seen

    def issue(self, variant: str, version: str, emotion: str) -> str:
        """A new id for an answer: variant, version, emotion, something unique, the time, the signature."""
        payload = ".".join([variant, version, quote(emotion, safe="").replace(".", "%2E"), secrets.token_hex(6)])
        return self._signer.sign(payload).decode()

    def take(self, request_id: str, emotion: str, labels: tuple[str, ...]) -> Verdict:
        """Attach a true emotion to an answer.

        Args:
            labels: what can be true.

        Raises:
            InvalidFeedback: the id is not one of ours or too old, or the emotion is none of the labels.
        """
        if emotion not in labels:
            raise InvalidFeedback(
                f"{emotion[:40]!r} is not an emotion that is known here; {', '.join(labels)} are.",
                emotions=list(labels),
            )
        issued, payload = self._read(request_id)
        agreed = issued.emotion == emotion
        counted = self._seen.add(payload)  # what was signed: base64 has several spellings of one signature
        if counted:
            self._metrics.feedback.labels(issued.variant, issued.version, "agree" if agreed else "disagree").inc()
        return Verdict(issued, agreed, counted)

    def _read(self, request_id: str) -> tuple[Issued, str]:
        """What the id says, and the signed text that says it."""
        try:
            payload = self._signer.unsign(request_id, max_age=_VALID_S).decode()
        except SignatureExpired:
            raise InvalidFeedback(
                f"The request id is older than {_VALID_S // 3600} hours; it is no longer taken."
            ) from None
        except (BadSignature, UnicodeError):
            raise InvalidFeedback(
                "The request id was not given out here. Send the X-Request-ID of an answer, unchanged; replicas take "
                "each other's only where they share TIMBRE_SECRET."
            ) from None
        variant, version, emotion, _ = payload.split(".")
        return Issued(variant, version, unquote(emotion)), payload


class Seen:
    """Ids that were counted already: in memory, or in files where several worker processes make one replica."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._ids: OrderedDict[bytes, float] = OrderedDict()
        if folder:
            folder.mkdir(exist_ok=True)

    @staticmethod
    def of_this_replica() -> Seen:
        """In memory, or in the folder that the workers share."""
        shared = os.environ.get(MULTIPROCESS_DIR)
        return Seen(Path(shared) / "feedback" if shared else None)

    def add(self, payload: str) -> bool:
        """Whether it is new."""
        digest = hashlib.blake2b(payload.encode(), digest_size=16).digest()
        if self._folder:
            try:
                (self._folder / digest.hex()).touch(exist_ok=False)
            except FileExistsError:
                return False
            return True
        if digest in self._ids:
            return False
        now = time.time()
        self._ids[digest] = now
        while self._ids and (len(self._ids) > _REMEMBERED or next(iter(self._ids.values())) < now - _VALID_S):
            self._ids.popitem(last=False)
        return True

    def clean(self) -> None:
        """Forget files of ids that have expired."""
        if self._folder:
            for path in self._folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < time.time() - _VALID_S:
                        path.unlink()
