"""Watches a trial from inside the service and ends it: a canary that harms is gone within seconds.

Each worker has one; whoever holds the deployers' lock looks, the others pass. What one that is killed has
begun is concluded by the next.
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
    """Does nothing, and asks nobody, while this worker tries nothing."""

    def __init__(self, slot: ModelSlot, ctx: Context) -> None:
        super().__init__("trial-monitor", _PERIOD)
        self._slot, self._ctx = slot, ctx

    def tick(self) -> None:
        live = self._slot.take()
        if live is None or live.trial is None:
            return
        try:
            trial.step(self._ctx, wait=False)
        except EvergreenError as error:
            log.warning("the trial goes on unwatched for now: %s", error)
        except Exception:
            log.exception("a look at the trial failed")
