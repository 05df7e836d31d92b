"""Who may: API keys of ``TIMBRE_API_KEYS_FILE``, their scopes and rates. Without a file everybody may everything.

    keys:
      app:    {sha256: 5e88..., scopes: [predict], per_minute: 600}
      people: {sha256: [9f86..., 2c26...], scopes: [predict, models, feedback, experiments]}

The file holds hashes, so that who reads it can ask nothing. ``python -m serving key`` makes a key: 256 random bits,
which nobody guesses, so that a fast hash is enough. Several hashes of one name let a key be changed without a gap.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from serving.errors import Forbidden, RateLimited, RequestError, SettingsError, Unauthenticated
from serving.metrics import NOBODY, Metrics

logger = logging.getLogger("timbre")

API_KEY = "x-api-key"
"""The header, and gRPC metadata, that brings a key; so does ``Authorization: Bearer``."""
_PREFIX = "timbre_"  # so that those who search repositories for secrets know one
_BURST_S = 10.0  # so much of a rate may be used at once
_MOST_CHARACTERS = 200  # of a key; nobody shall make us hash megabytes


class Scope(StrEnum):
    """What a key is for."""

    PREDICT = "predict"
    MODELS = "models"
    FEEDBACK = "feedback"
    EXPERIMENTS = "experiments"
    METRICS = "metrics"
    HEALTH = "health"


def _listed(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Key(BaseModel):
    """One caller; the rate is of calls in each process, and a call with several clips or a live stream is one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[list[Hash], BeforeValidator(_listed), Field(min_length=1)]
    scopes: frozenset[Scope] = Field(frozenset({Scope.PREDICT}), min_length=1)
    per_minute: float = Field(0, ge=0, allow_inf_nan=False)
    """0 for as many as come."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")], Key]


def new_key() -> str:
    """A key that nobody has."""
    return _PREFIX + secrets.token_urlsafe(32)


def hashed(key: str) -> str:
    """What stands of it in the file."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse(text: str, path: Path) -> Mapping[str, Key]:
    """The keys of a file by name.

    Raises:
        SettingsError: it is not such a file; no hash is told.
    """
    try:
        return _File.model_validate(yaml.safe_load(text)).keys
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise SettingsError(f"{path}: {faults}.") from None
    except (yaml.YAMLError, ValueError, RecursionError):  # a date of no calendar; a thousand brackets
        raise SettingsError(f"{path}: not YAML.") from None


class Guard:
    """Decides for every transport alike; follows its file.

    Args:
        path: the file; None where everybody may everything.
        exempt: scopes that need no key.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        path: Path | None,
        exempt: frozenset[Scope],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._exempt, self._metrics, self._clock = path, exempt, metrics, clock
        self._text = self._problem = ""
        self._keys: Mapping[str, Key] = {}
        self._buckets: dict[str, _Bucket] = {}
        if path is not None:
            try:
                self._take(path.read_text())
            except (OSError, UnicodeError) as error:
                raise SettingsError(f"TIMBRE_API_KEYS_FILE: {path} cannot be read: {error}.") from error

    def follow(self) -> None:
        """Read the file again; where it is wrong or gone, what was read before stays."""
        if self._path is None:
            return
        try:
            self._take(self._path.read_text())
        except (OSError, UnicodeError, SettingsError) as error:
            problem = str(error)
        else:
            problem = ""
        if problem and problem != self._problem:  # told once
            logger.error("The API keys stay as they were. %s", problem)
        self._problem = problem

    def admit(self, credential: str | None, scope: Scope) -> None:
        """Let a call pass.

        Args:
            credential: the key that came with it, if any.

        Raises:
            Unauthenticated: no key, or none of the file's. Forbidden: a key that is not for this.
            RateLimited: the key has used up its rate.
        """
        if self._path is None or scope in self._exempt:
            return
        name = self._who(credential)
        try:
            self._check(name, credential, scope)
        except RequestError as error:
            self._count(name, error.code)
            raise
        self._count(name, "ok")

    def _check(self, name: str, credential: str | None, scope: Scope) -> None:
        if not name:
            what = "An API key is needed" if credential is None else "The API key is none that is known here"
            raise Unauthenticated(f"{what}. Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
        scopes = self._keys[name].scopes
        if scope not in scopes and scope is not Scope.HEALTH:  # whoever has any key may know whether we are well
            raise Forbidden(f"The API key {name} is for {', '.join(sorted(scopes))}, not for {scope}.", scope=scope)
        wait_s = self._buckets[name].take()
        if wait_s:
            rate = self._keys[name].per_minute
            raise RateLimited(
                f"The API key {name} has {rate:g} calls a minute. Wait a little.", retry_after_s=max(1, round(wait_s))
            )

    def _who(self, credential: str | None) -> str:
        """Name of the key, or nobody's. Every hash is looked at, so that time tells nothing of which is near."""
        if credential is None or len(credential) > _MOST_CHARACTERS:
            return NOBODY
        came, found = hashed(credential), NOBODY
        for name, key in self._keys.items():
            for known in key.sha256:
                if hmac.compare_digest(came, known):
                    found = name
        return found

    def _take(self, text: str) -> None:
        if self._path is None or text == self._text:
            return
        keys = parse(text, self._path)
        # A rate that has not changed goes on where it was.
        kept = {name: self._buckets[name] for name, key in keys.items() if self._keys.get(name) == key}
        self._buckets = {name: kept.get(name) or _Bucket(key.per_minute, self._clock) for name, key in keys.items()}
        self._keys, self._text = keys, text
        logger.info("API keys in force: %s", ", ".join(keys) or "none, so that nobody may anything")

    def _count(self, name: str, result: str) -> None:
        self._metrics.keys.labels(name, result).inc()


class _Bucket:
    """So many calls a minute, some of them at once (a token bucket)."""

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._per_s, self._clock = per_minute / 60, clock
        self._most = max(1.0, self._per_s * _BURST_S)
        self._left, self._at = self._most, clock()

    def take(self) -> float:
        """0 where one was left, else in how many seconds one will be."""
        if not self._per_s:
            return 0.0
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._per_s
        self._left -= 1
        return 0.0
