"""Rate limits by key, shared by all workers of a host.

The generic cell rate algorithm (ITU-T I.371): a token bucket whose state is one time, when the bucket will be full
again. These times are in shared memory, eight bytes each, which a processor writes atomically; so there is no lock
that a dying worker could hold. Where two workers count the same key within a few microseconds, two requests may be
counted as one.
"""

import hashlib
import math
import mmap
from dataclasses import dataclass
from typing import Final

_SLOTS: Final = 1 << 16
_PROBES: Final = 16
"""Slots a key may use; where all are in use, the one whose bucket will be full first is replaced."""


@dataclass(frozen=True)
class Rate:
    """At most `per_second` requests a second in the long run, `burst` at once."""

    per_second: float
    burst: int


@dataclass(frozen=True)
class RateLimitResult:
    """The result of counting a request.

    Attributes:
        wait: seconds until it may be tried again; 0 if it is allowed.
        remaining: requests that may follow at once.
        reset: seconds until the whole burst is available again.
    """

    wait: float
    remaining: int
    reset: float


class RateLimiter:
    """The state of all keys; created before workers are forked, or by a single worker."""

    def __init__(self) -> None:
        self._marks = memoryview(mmap.mmap(-1, 8 * _SLOTS)).cast("Q")
        self._full_at = memoryview(mmap.mmap(-1, 8 * _SLOTS)).cast("d")

    def acquire(self, key: str, rate: Rate, now: float) -> RateLimitResult:
        """Count a request, unless it exceeds the rate.

        Args:
            key: the key's id; with another rate its count starts again.
            now: `time.monotonic`, a clock that all processes of the host share.
        """
        slot = self._slot(key, rate, now)
        step = 1 / rate.per_second
        full = max(0.0, self._full_at[slot] - now) + step
        wait = full - rate.burst * step
        if wait > 1e-9:  # rounding errors
            return RateLimitResult(wait, 0, full - step)
        self._full_at[slot] = now + full
        return RateLimitResult(0.0, int(rate.burst - full / step + 1e-9), full)

    def _slot(self, key: str, rate: Rate, now: float) -> int:
        digest = hashlib.blake2b(f"{key} {rate.per_second} {rate.burst}".encode(), digest_size=8).digest()
        mark = int.from_bytes(digest, "big") | 1  # 0 marks a free slot
        candidates = [(mark + n) % _SLOTS for n in range(_PROBES)]
        for candidate in candidates:
            if self._marks[candidate] == mark:
                return candidate
        slot = next((p for p in candidates if self._full_at[p] <= now), None)
        slot = min(candidates, key=lambda p: self._full_at[p]) if slot is None else slot
        self._full_at[slot] = 0.0
        self._marks[slot] = mark
        return slot


def headers(rate: Rate, result: RateLimitResult) -> list[tuple[bytes, bytes]]:
    """`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers); window: time to fill the bucket."""
    window = max(1, math.ceil(rate.burst / rate.per_second))
    return [
        (b"ratelimit-policy", b'"key";q=%d;w=%d' % (rate.burst, window)),
        (b"ratelimit", b'"key";r=%d;t=%d' % (result.remaining, math.ceil(result.reset))),
    ]
