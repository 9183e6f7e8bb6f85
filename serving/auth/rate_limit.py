"""How often a key may ask, counted for all workers of a host together.

The generic cell rate algorithm (ITU-T I.371), which is a token bucket whose state is one moment: when the bucket
will be full again. The moments stand in memory that workers share, eight bytes each, which a processor writes at
once; so there is no lock that a dying worker could keep. Where two workers count the same key within the same few
microseconds, one request may be counted for two.
"""

import hashlib
import math
import mmap
from dataclasses import dataclass
from typing import Final

_SLOTS: Final = 1 << 16
_PROBES: Final = 16
"""Places a key may have; where all are taken, the one whose bucket is fullest gives way."""


@dataclass(frozen=True)
class Rate:
    """At most `per_second` requests a second in the long run, `burst` at once."""

    per_second: float
    burst: int


@dataclass(frozen=True)
class Taken:
    """What came of a request.

    Attributes:
        wait: seconds until it may be tried again; 0 if it was let pass.
        left: requests that may follow at once.
        full: seconds until the whole burst may be used again.
    """

    wait: float
    left: int
    full: float


class RateLimiter:
    """The moments of all keys; made before workers are forked, or by a worker that is alone."""

    def __init__(self) -> None:
        self._marks = memoryview(mmap.mmap(-1, 8 * _SLOTS)).cast("Q")
        self._full_at = memoryview(mmap.mmap(-1, 8 * _SLOTS)).cast("d")

    def take(self, key: str, rate: Rate, now: float) -> Taken:
        """Count a request, unless it comes too early.

        Args:
            key: the key's id; with another rate its count begins anew.
            now: seconds of a clock that all processes of the host share (`time.monotonic`).
        """
        slot = self._slot(key, rate, now)
        step = 1 / rate.per_second
        full = max(0.0, self._full_at[slot] - now) + step
        wait = full - rate.burst * step
        if wait > 1e-9:  # of rounding
            return Taken(wait, 0, full - step)
        self._full_at[slot] = now + full
        return Taken(0.0, int(rate.burst - full / step + 1e-9), full)

    def _slot(self, key: str, rate: Rate, now: float) -> int:
        digest = hashlib.blake2b(f"{key} {rate.per_second} {rate.burst}".encode(), digest_size=8).digest()
        mark = int.from_bytes(digest, "big") | 1  # 0 is nobody's
        places = [(mark + n) % _SLOTS for n in range(_PROBES)]
        for place in places:
            if self._marks[place] == mark:
                return place
        found = next((p for p in places if self._full_at[p] <= now), None)
        found = min(places, key=lambda p: self._full_at[p]) if found is None else found
        self._full_at[found] = 0.0
        self._marks[found] = mark
        return found


def headers(rate: Rate, taken: Taken) -> list[tuple[bytes, bytes]]:
    """`RateLimit` and its policy (draft-ietf-httpapi-ratelimit-headers): the window is what fills the bucket."""
    window = max(1, math.ceil(rate.burst / rate.per_second))
    return [
        (b"ratelimit-policy", b'"key";q=%d;w=%d' % (rate.burst, window)),
        (b"ratelimit", b'"key";r=%d;t=%d' % (taken.left, math.ceil(taken.full))),
    ]
