"""How often a key may ask: a token bucket a key, in each worker's memory."""

import math
from dataclasses import dataclass


@dataclass
class Bucket:
    """Holds at most `burst` tokens and gains `per_second` of them; a request takes one.

    Attributes:
        at: seconds of a monotonic clock when `tokens` was counted.
    """

    per_second: float
    burst: int
    tokens: float
    at: float

    def take(self, now: float, cost: float = 1.0) -> float:
        """Take a token if there is one.

        Returns:
            0 if it was there, else the seconds until it will be.
        """
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.per_second)
        self.at = now
        if self.tokens >= cost:
            self.tokens -= cost
            return 0.0
        return (cost - self.tokens) / self.per_second

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`RateLimit` and its policy (draft-ietf-httpapi-ratelimit-headers): the window is what fills the bucket."""
        window = max(1, math.ceil(self.burst / self.per_second))
        full = math.ceil((self.burst - self.tokens) / self.per_second)
        return [
            (b"ratelimit-policy", b'"key";q=%d;w=%d' % (self.burst, window)),
            (b"ratelimit", b'"key";r=%d;t=%d' % (int(self.tokens), full)),
        ]


class Buckets:
    """One for each key that asked; a key whose limit was changed begins anew."""

    def __init__(self) -> None:
        self._by_key: dict[str, Bucket] = {}

    def of(self, key: str, per_second: float, burst: int, now: float) -> Bucket:
        found = self._by_key.get(key)
        if found is None or (found.per_second, found.burst) != (per_second, burst):
            found = self._by_key[key] = Bucket(per_second, burst, burst, now)
        return found
