"""Parts on their way up: begun, watched until healthy, named when they fail."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from infra.local.components import Component
from infra.local.manager import Manager
from ml.errors import UnavailableError

OnPart = Callable[[str, str], None]

PATIENCE = 180.0
"""Seconds without a sign of life (processor time used, a line in its log) after which a part is given up."""

LONGEST = 1200.0
"""Seconds after which a part that is not healthy is given up, whatever it does."""

_PROCESSES_MOST = 8  # one that dies so often will not live


class StartupWaiter:
    """What was begun and is not healthy yet."""

    def __init__(self, manager: Manager, logs: Path, tell: OnPart, pause: float = 0.3) -> None:
        self._manager = manager
        self._logs = logs
        self.tell = tell
        self._pause = pause
        self._waiting: dict[str, Component] = {}
        self._since: dict[str, float] = {}
        self._signs: dict[str, tuple[object, float]] = {}
        self._pids: dict[str, set[int]] = {}

    def begin(self, parts: Iterable[Component]) -> None:
        """Start those not begun before; a running one is only watched."""
        for part in parts:
            if part.name in self._since:
                continue
            self.tell(part.name, "starting")
            self._manager.start_part(part.name)
            self._waiting[part.name] = part
            self._since[part.name] = time.monotonic()
            self._pids[part.name] = set()

    def wait(self, until: Callable[[], bool] | None = None) -> None:
        """Until all that was begun is healthy, or until a condition holds.

        Raises:
            UnavailableError: a part fails, or shows no sign of life for too long.
        """
        while (not until()) if until else self._waiting:
            for part in list(self._waiting.values()):
                if part.healthy():
                    del self._waiting[part.name]
                    self.tell(part.name, "healthy")
                else:
                    self._refuse_if_hopeless(part)
            time.sleep(self._pause if self._waiting or until else 0)

    def _refuse_if_hopeless(self, part: Component) -> None:
        told = self._manager.info(part.name)
        self._pids[part.name].add(told["pid"])
        log = self._logs / f"{part.name}.log"
        seconds, quiet = self._times(
            part.name, (_processor_seconds(told["pid"]), log.stat().st_size if log.exists() else 0)
        )
        died = len(self._pids[part.name] - {0})
        late = quiet > PATIENCE or seconds > LONGEST
        if told["statename"] == "FATAL" or died > _PROCESSES_MOST or late:
            self.tell(part.name, "failed")
            how = f"after {seconds:.0f} s" + (f" and {died} starts" if died > 1 else "")
            raise UnavailableError(f"{part.name} is not healthy {how}; the end of {log}:\n{tail(log)}")

    def _times(self, name: str, sign: object) -> tuple[float, float]:
        """Seconds since the part was begun, and since its sign of life last changed."""
        now = time.monotonic()
        if name not in self._signs or self._signs[name][0] != sign:
            self._signs[name] = (sign, now)
        return now - self._since[name], now - self._signs[name][1]


def _processor_seconds(pid: int) -> dict[int, int]:
    """Used by the process and each descendant; a part that still imports may write nothing for minutes."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return {member.pid: int(sum(member.cpu_times()[:2])) for member in family}
    except psutil.Error:
        return {}


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(it cannot be read: {error})"
