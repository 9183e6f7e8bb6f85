"""Looks how a trial goes and ends it, from inside the service: a canary that harms is gone within seconds.

Each worker has one; whoever holds the movers' lock looks, the others pass. What one that is killed has
begun is concluded by the next.
"""

import logging
import threading
from typing import Final

from ml.context import Context
from ml.errors import EvergreenError
from ml.release import trial
from serving.model_slot import ModelSlot

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0


class Referee(threading.Thread):
    """Does nothing, and asks nobody, while this worker tries nothing."""

    def __init__(self, slot: ModelSlot, ctx: Context) -> None:
        super().__init__(name="referee", daemon=True)
        self._slot, self._ctx = slot, ctx
        self._stopping = threading.Event()

    def stop(self, seconds: float) -> None:
        self._stopping.set()
        self.join(seconds)

    def run(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            live = self._slot.take()
            if live is None or live.trial is None:
                continue
            try:
                trial.step(self._ctx, wait=False)
            except EvergreenError as error:
                log.warning("the trial goes on unwatched for now: %s", error)
            except Exception:
                log.exception("a look at the trial failed")
