"""Keeps the log's figures true while the drain waits for a server that hangs."""

import logging
import threading
from typing import Final

from serving.metrics import Metrics
from serving.prediction_log import PredictionLog
from serving.spool import Spool

log = logging.getLogger(__name__)

SECONDS: Final = 0.5


class SpoolWatch(threading.Thread):
    """One a worker: measures the folders and tells Prometheus."""

    def __init__(self, own: Spool, prediction_log: PredictionLog, metrics: Metrics) -> None:
        super().__init__(name="spool-watch", daemon=True)
        self._spool, self._log, self._metrics = own, prediction_log, metrics
        self._stopping = threading.Event()
        self._failed = False

    def run(self) -> None:
        while not self._stopping.wait(SECONDS):
            self._look()

    def stop(self, seconds: float) -> None:
        self._stopping.set()
        self.join(seconds)

    def _look(self) -> None:
        try:
            self._spool.images_gone()
            self._log.measure()
        except OSError as error:
            if not self._failed:
                log.warning("the spool folder cannot be read: %s", error)
            self._failed = True
        else:
            self._failed = False
        rows, size = self._spool.waiting()
        self._metrics.spool_rows.set(rows)
        self._metrics.spool_bytes.set(size)
