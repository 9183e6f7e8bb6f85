"""Spool to storage, when there is time: this worker's files, and those of workers that are gone."""

import logging
import threading
import time
from pathlib import Path
from typing import Final

from serving import spool
from serving.spool import Spool
from serving.storing import Storing

log = logging.getLogger(__name__)

TICK: Final = 0.5
ADOPT_SECONDS: Final = 2.0
LONGEST_WAIT: Final = 10.0
REST: Final = 1.0
"""Times as long as storing a pair took: after an outage answers come before the backlog."""


class Drain(threading.Thread):
    """One a worker. Postgres or the bucket away: it waits, and asks again less and less often."""

    def __init__(self, own: Spool, storing: Storing) -> None:
        super().__init__(name="drain", daemon=True)
        self._spool, self._storing = own, storing
        self._stopping = threading.Event()
        self._wait, self._adopt_at, self._trouble = TICK, 0.0, ""

    def run(self) -> None:
        while not self._stopping.wait(self._wait):
            self._turn(TICK)
        self._turn(0)
        while not self._trouble and self._spool.closed(0):
            self._turn(0)

    def stop(self, seconds: float) -> None:
        """Store what waits, if that is possible within `seconds`; the rest stays on disk."""
        self._stopping.set()
        self.join(seconds)
        self._spool.close()

    def _turn(self, age: float) -> None:
        try:
            for path in self._spool.closed(age):
                self._store(path, self._spool.folder.name)
                self._spool.drained(path)
            if time.monotonic() >= self._adopt_at:
                self._adopt()
                self._adopt_at = time.monotonic() + ADOPT_SECONDS
        except Exception as error:  # noqa: BLE001 - whatever it is, the files are kept and tried again
            self._wait = min(LONGEST_WAIT, self._wait * 2)
            self._note(f"{type(error).__name__}: {error}")
        else:
            self._wait = TICK
            self._note("")

    def _adopt(self) -> None:
        for folder in spool.others(self._spool.folder.parent, self._spool.folder):
            with spool.adopted(folder) as files:
                for path in files or ():
                    self._store(path, folder.name)
                    spool.delete(path)
                if files is not None:
                    log.info("stored what worker %s left behind: %d files", folder.name, len(files))

    def _store(self, path: Path, replica: str) -> None:
        started = time.monotonic()
        self._storing.pair(path, replica)
        self._stopping.wait(REST * (time.monotonic() - started))

    def _note(self, trouble: str) -> None:
        """One line when it begins to fail, one when it works again."""
        if bool(trouble) != bool(self._trouble):
            if trouble:
                log.warning("the prediction log waits on local disk: %s", trouble)
            else:
                log.info("the prediction log is stored again")
        self._trouble = trouble
