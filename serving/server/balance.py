"""Spreads connections evenly over the workers of a host.

The kernel distributes new connections at random, and those of a worker that died all go to the remaining ones. So
a worker with more than its share closes some: its next responses say `Connection: close` (RFC 9112, section
9.6), and clients that reconnect are distributed again. The workers' counts are in shared memory.
"""

import math
import mmap
from collections.abc import Callable
from typing import Final

MAX_WORKERS: Final = 256
_CLOSED: Final = -1
_UPDATE_SECONDS: Final = 0.1
_SLACK: Final = 16
"""A worker may exceed its share by one part in this many, rounded down."""


class ConnectionCounts:
    """Created by the supervisor previous it forks; each slot holds the number of connections of one worker."""

    def __init__(self) -> None:
        self.counts = memoryview(mmap.mmap(-1, 8 * MAX_WORKERS)).cast("q")
        self._claimed: dict[int, Callable[[], bool]] = {}
        for slot in range(MAX_WORKERS):
            self.counts[slot] = _CLOSED

    def claim(self, alive: Callable[[], bool]) -> tuple[int, bool] | None:
        """Claim the first free slot for as long as `alive` returns true.

        Returns:
            The slot, and whether another worker had it before. None: there are more workers than slots.
        """
        for slot in range(MAX_WORKERS):
            previous = self._claimed.get(slot)
            if previous is None or not previous():
                self._claimed[slot] = alive
                self.counts[slot] = _CLOSED
                return slot, previous is not None
        return None

    def release(self, slot: int) -> None:
        """Mark the slot's worker as gone."""
        self.counts[slot] = _CLOSED


class ConnectionBalancer:
    """The balancer of one worker, used by its event loop.

    Args:
        is_replacement: this worker replaces one that died.

    Attributes:
        ready: whether the worker can answer; until then it is left out of the shares.
    """

    def __init__(self, counts: memoryview, slot: int, *, is_replacement: bool = False) -> None:
        self._counts, self._slot, self.is_replacement = counts, slot, is_replacement
        self._update_at, self._connections, self._to_close = 0.0, 0, 0
        self.ready: Callable[[], bool] = lambda: True

    def update(self, connections: int) -> None:
        """Set the number of open connections."""
        self._connections = connections
        self.publish()

    def publish(self) -> None:
        """Write this worker's count for the others; also called when it becomes ready."""
        self._counts[self._slot] = self._connections if self.ready() else _CLOSED

    def withdraw(self) -> None:
        """Leave the shares: this worker accepts no more connections."""
        self.ready = lambda: False
        self.publish()

    def should_close(self, now: float, connections: int) -> bool:
        """Whether to close a connection after the response that is about to be sent.

        Args:
            now: seconds, by the event loop's clock.
            connections: this worker's open connections, this one included.
        """
        if now >= self._update_at:
            self._update_at = now + _UPDATE_SECONDS
            self.update(connections)
            self._to_close = self._surplus(connections)
        if not self._to_close:
            return False
        self._to_close -= 1
        return True

    def _surplus(self, connections: int) -> int:
        counts = [count for count in self._counts if count != _CLOSED]
        if not counts:
            return 0
        share = math.ceil(sum(counts) / len(counts))
        return connections - share if connections > share + share // _SLACK else 0
