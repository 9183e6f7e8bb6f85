"""A thread that calls a method periodically until it is stopped."""

import threading


class PeriodicThread(threading.Thread):
    """Calls `tick` every `period` seconds; a subclass may change the period between calls, to back off.

    Args:
        name: the thread's name.
        period: seconds before the first call, and between the end of one call and the start of the next.
    """

    def __init__(self, name: str, period: float) -> None:
        super().__init__(name=name, daemon=True)
        self.period = period
        self._stopping = threading.Event()

    def tick(self) -> None:
        """One round of work. It must handle its errors: one that it raises ends the thread."""
        raise NotImplementedError

    def run(self) -> None:
        while not self._stopping.wait(self.period):
            self.tick()

    def stop(self, seconds: float) -> None:
        """Ask the thread to end after the current round, and wait up to `seconds` for it."""
        self._stopping.set()
        self.join(seconds)
