"""Starts parts and waits until they are healthy, or reports the one that fails."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from infra.local.components import Component
from infra.local.manager import Manager
from ml.errors import UnavailableError

OnPart = Callable[[str, str], None]

PATIENCE = 180.0
"""Seconds without activity (CPU time, log output) after which a part has failed."""

LONGEST = 1200.0
"""Seconds after which a part that is not healthy has failed, even if it is active."""

_PROCESSES_MOST = 8  # one that exits this often will not start


class StartupWaiter:
    """Starts parts, and waits for those that are not healthy yet."""

    def __init__(self, manager: Manager, logs: Path, report: OnPart, pause: float = 0.3) -> None:
        self._manager = manager
        self._logs = logs
        self.report = report
        self._pause = pause
        self._waiting: dict[str, Component] = {}
        self._since: dict[str, float] = {}
        self._activity: dict[str, tuple[object, float]] = {}
        self._pids: dict[str, set[int]] = {}

    def begin(self, parts: Iterable[Component]) -> None:
        """Start parts that were not started before; a running one is only watched."""
        for part in parts:
            if part.name in self._since:
                continue
            self.report(part.name, "starting")
            self._manager.start_part(part.name)
            self._waiting[part.name] = part
            self._since[part.name] = time.monotonic()
            self._pids[part.name] = set()

    def wait(self, until: Callable[[], bool] | None = None) -> None:
        """Wait until all started parts are healthy, or until a condition holds.

        Raises:
            UnavailableError: a part fails, or is inactive for too long.
        """
        while (not until()) if until else self._waiting:
            for part in list(self._waiting.values()):
                if part.healthy():
                    del self._waiting[part.name]
                    self.report(part.name, "healthy")
                else:
                    self._raise_if_failed(part)
            time.sleep(self._pause if self._waiting or until else 0)

    def _raise_if_failed(self, part: Component) -> None:
        info = self._manager.info(part.name)
        self._pids[part.name].add(info["pid"])
        log = self._logs / f"{part.name}.log"
        seconds, quiet = self._times(
            part.name, (_processor_seconds(info["pid"]), log.stat().st_size if log.exists() else 0)
        )
        exits = len(self._pids[part.name] - {0})
        late = quiet > PATIENCE or seconds > LONGEST
        if info["statename"] == "FATAL" or exits > _PROCESSES_MOST or late:
            self.report(part.name, "failed")
            how = f"after {seconds:.0f} s" + (f" and {exits} starts" if exits > 1 else "")
            raise UnavailableError(f"{part.name} is not healthy {how}; the end of {log}:\n{tail(log)}")

    def _times(self, name: str, activity: object) -> tuple[float, float]:
        """Seconds since the part was started, and since its activity last changed."""
        now = time.monotonic()
        if name not in self._activity or self._activity[name][0] != activity:
            self._activity[name] = (activity, now)
        return now - self._since[name], now - self._activity[name][1]


def _processor_seconds(pid: int) -> dict[int, int]:
    """CPU seconds of the process and each descendant; a part that is importing may log nothing for minutes."""
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
