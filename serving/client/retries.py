"""Trying again, where it is safe."""

from __future__ import annotations

from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState
from tenacity.retry import retry_if_exception_type
from tenacity.stop import stop_after_attempt, stop_before_delay
from tenacity.wait import wait_random_exponential

from serving.errors import Overloaded, RateLimited, Starting, Stopping, Unreachable

SAFE = (Unreachable, Overloaded, RateLimited, Starting, Stopping)
"""What is tried again: nothing was computed, or nobody is there to be burdened by computing it once more.

A prediction changes nothing at the service, so that asking twice gives one answer twice. A deadline or a fault of the
service's own is not in here: whoever is too slow or broken would get all his work again.
"""


@dataclass(frozen=True)
class Retries:
    """How often and how soon.

    Attributes:
        attempts: tries in all; 1 for no second.
        first_s, most_s: the wait before the second try is drawn from 0 to ``first_s`` ("full jitter": M. Brooker,
            "Exponential Backoff and Jitter", AWS Architecture Blog 2015), and the range doubles up to ``most_s``. What
            the service says of Retry-After comes on top.
    """

    attempts: int = 5
    first_s: float = 0.2
    most_s: float = 10.0

    def within(self, timeout_s: float) -> AsyncRetrying:
        """Tries, none of which begins when the time is over; the last error is raised."""
        jitter = wait_random_exponential(multiplier=self.first_s, max=self.most_s)

        def wait_s(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            told_s = error.details.get("retry_after_s", 0) if isinstance(error, SAFE) else 0
            return float(told_s) + jitter(state)

        return AsyncRetrying(
            retry=retry_if_exception_type(SAFE),
            wait=wait_s,
            stop=stop_after_attempt(self.attempts) | stop_before_delay(timeout_s),
            reraise=True,
        )
