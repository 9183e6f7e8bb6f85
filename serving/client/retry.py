"""When a client retries: exponential backoff with jitter, and at least the service's `Retry-After`."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

RETRYABLE: Final = frozenset({0, 408, 429, 502, 503, 504})
"""Statuses of temporary errors; 0 is no response."""


@dataclass(frozen=True)
class Retry:
    """The retry policy of a client.

    Attributes:
        attempts: the most attempts, the first included.
        first: the most seconds of backoff after the first attempt; doubled after each further one.
        longest: the most seconds of any backoff.
        patience: the most seconds from the first attempt to the start of the last.
    """

    attempts: int = 6
    first: float = 0.1
    longest: float = 5.0
    patience: float = 30.0

    def wait(self, attempts: int, retry_after: float | None, elapsed: float) -> float | None:
        """Seconds until the next attempt, None if there is none.

        The backoff is drawn uniformly from zero to its maximum, so that clients that failed together do not retry
        together (AWS Architecture Blog, "Exponential Backoff And Jitter", full jitter).

        Args:
            attempts: attempts so far.
            retry_after: the service's `Retry-After` in seconds, added to the backoff.
            elapsed: seconds since the first attempt.
        """
        max_backoff = min(self.longest, self.first * 2.0 ** min(attempts - 1, 30))
        wait = random.uniform(0, max_backoff) + (retry_after or 0.0)  # noqa: S311 - not for secrets
        return wait if attempts < self.attempts and elapsed + wait <= self.patience else None


def seconds_of(retry_after: str | None) -> float | None:
    """Parse `Retry-After`, seconds or a date; None where it is missing or invalid."""
    if not retry_after:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (at - datetime.now(UTC)).total_seconds()) if at.tzinfo else None
