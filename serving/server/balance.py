"""Connections spread evenly over the workers of a host.

The kernel deals new connections out at random, and those of a worker that died all go to the ones that are left. So
a worker that has more than its share lets some go: its next answers say `Connection: close` (RFC 9112, section
9.6), and who comes again is dealt out anew. How many each one has stands in memory that all of them share.
"""

import math
import mmap
from collections.abc import Callable
from typing import Final

MOST_WORKERS: Final = 256
_CLOSED: Final = -1
_LOOK_SECONDS: Final = 0.1
_SLACK: Final = 16
"""A worker may have this fraction of its share, rounded down, beyond it."""


class ConnectionCounts:
    """Made by the supervisor before it forks; a seat holds its worker's number of connections."""

    def __init__(self) -> None:
        self.counts = memoryview(mmap.mmap(-1, 8 * MOST_WORKERS)).cast("q")
        self._taken: dict[int, Callable[[], bool]] = {}
        for seat in range(MOST_WORKERS):
            self.counts[seat] = _CLOSED

    def take(self, alive: Callable[[], bool]) -> tuple[int, bool] | None:
        """The first seat that is free, for as long as `alive` says so, and whether somebody had it before.

        None: there are more workers than seats.
        """
        for seat in range(MOST_WORKERS):
            before = self._taken.get(seat)
            if before is None or not before():
                self._taken[seat] = alive
                self.counts[seat] = _CLOSED
                return seat, before is not None
        return None

    def leave(self, seat: int) -> None:
        """Its worker is gone."""
        self.counts[seat] = _CLOSED


class ConnectionBalancer:
    """One worker's side of it, for its event loop.

    Args:
        is_replacement: this worker came in the place of another.

    Attributes:
        ready: whether it can answer; before, nobody sends it connections.
    """

    def __init__(self, counts: memoryview, seat: int, *, is_replacement: bool = False) -> None:
        self._counts, self._seat, self.is_replacement = counts, seat, is_replacement
        self._look_at, self._connections, self._spare = 0.0, 0, 0
        self.ready: Callable[[], bool] = lambda: True

    def update(self, connections: int) -> None:
        """So many are open now."""
        self._connections = connections
        self.publish()

    def publish(self) -> None:
        """Tell the others how things are; also where this worker has just become ready."""
        self._counts[self._seat] = self._connections if self.ready() else _CLOSED

    def leave(self) -> None:
        """This worker takes no more connections."""
        self.ready = lambda: False
        self.publish()

    def should_close(self, now: float, connections: int) -> bool:
        """Whether the connection on which an answer is about to be sent is to be closed after it.

        Args:
            now: seconds, by the event loop's clock.
            connections: open here, this one included.
        """
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            self.update(connections)
            self._spare = self._surplus(connections)
        if not self._spare:
            return False
        self._spare -= 1
        return True

    def _surplus(self, connections: int) -> int:
        counts = [count for count in self._counts if count != _CLOSED]
        if not counts:
            return 0
        share = math.ceil(sum(counts) / len(counts))
        return connections - share if connections > share + share // _SLACK else 0
