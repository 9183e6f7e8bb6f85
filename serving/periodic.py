"""A thread that does something again and again until it is stopped."""

import threading


class PeriodicThread(threading.Thread):
    """Calls `tick` every `period` seconds; a subclass may change the period between calls, to back off.

    Args:
        name: of the thread.
        period: seconds before the first call, and between the end of one and the beginning of the next.
    """

    def __init__(self, name: str, period: float) -> None:
        super().__init__(name=name, daemon=True)
        self.period = period
        self._stopping = threading.Event()

    def tick(self) -> None:
        """One round of work; an error that it raises ends the thread, so it handles its own."""
        raise NotImplementedError

    def run(self) -> None:
        while not self._stopping.wait(self.period):
            self.tick()

    def stop(self, seconds: float) -> None:
        """Ask the thread to end after the round at hand, and wait so long for that."""
        self._stopping.set()
        self.join(seconds)
