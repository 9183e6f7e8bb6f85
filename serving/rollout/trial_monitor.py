"""Evaluates a trial from inside the service and ends it: a harmful canary is stopped within seconds.

Each worker has one; the one that gets the deployment lock evaluates, the others skip the round. If it is
killed, the next one completes what it began.
"""

import logging
from typing import Final

from ml.context import Context
from ml.errors import EvergreenError
from ml.release import trial
from serving.periodic import PeriodicThread
from serving.rollout.serving_model import ModelSlot

log = logging.getLogger(__name__)

_PERIOD: Final = 1.0


class TrialMonitor(PeriodicThread):
    """Does nothing, and makes no query, while this worker has no trial."""

    def __init__(self, slot: ModelSlot, ctx: Context) -> None:
        super().__init__("trial-monitor", _PERIOD)
        self._slot, self._ctx = slot, ctx

    def tick(self) -> None:
        live = self._slot.get()
        if live is None or live.trial is None:
            return
        try:
            trial.advance(self._ctx, wait=False)
        except EvergreenError as error:
            log.warning("the trial could not be evaluated and continues: %s", error)
        except Exception:
            log.exception("evaluating the trial failed")
