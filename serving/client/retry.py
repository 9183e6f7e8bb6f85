"""When a client tries again: exponential pauses with jitter, and what the service asks for."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

PASSING: Final = frozenset({0, 408, 429, 502, 503, 504})
"""Statuses that may pass; 0 is no answer at all."""


@dataclass(frozen=True)
class Retry:
    """How patient a client is.

    Attributes:
        attempts: tries in all; 1 is no second one.
        first: longest pause after the first try, in seconds; each later one may be twice as long.
        longest: no pause of its own is longer.
        patience: seconds from the first try to the beginning of the last.
    """

    attempts: int = 6
    first: float = 0.1
    longest: float = 5.0
    patience: float = 30.0

    def wait(self, tried: int, asked: float | None, spent: float) -> float | None:
        """Seconds until the next try, None if there is none.

        The pause is drawn evenly from zero to its bound, so that clients that failed together do not come back
        together (AWS Architecture Blog, "Exponential Backoff And Jitter", full jitter).

        Args:
            tried: tries so far.
            asked: the service's `Retry-After` in seconds; it is waited for at least.
            spent: seconds since the first try.
        """
        bound = min(self.longest, self.first * 2.0 ** min(tried - 1, 30))
        wait = random.uniform(0, bound) + (asked or 0.0)  # noqa: S311 - not for secrets
        return wait if tried < self.attempts and spent + wait <= self.patience else None


def seconds_of(retry_after: str | None) -> float | None:
    """What `Retry-After` means: seconds, or a date; None where it is missing or means nothing."""
    if not retry_after:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (at - datetime.now(UTC)).total_seconds()) if at.tzinfo else None
