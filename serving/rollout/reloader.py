"""Does what the wish says: load, check, swap. A bad bundle leaves the old model serving and says so."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ml.errors import EvergreenError, IntegrityError, NotFoundError
from serving.rollout.bundle_loader import BundleLoader, DesiredDeployment
from serving.rollout.serving_model import ModelSlot, ServingModel, Trial
from serving.rollout.trial_counters import TrialCounters
from serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

PATIENCE: Final = 1.5
"""Seconds that a starting worker waits for the catalog's wish before it serves what served last."""
FIRST_RETRY: Final = 0.5
LONGEST_RETRY: Final = 10.0
_NICE: Final = 10
"""A tenth of a busy core: at full load a model loads later, and answers are not late for it."""


@dataclass(frozen=True)
class Refusal:
    """A deployment this worker will not run, and why."""

    deployment_id: int
    reason: str


class ModelReloader(threading.Thread):
    """Holds at most one wish, the newest, and what is to be tried beside it.

    Attributes:
        refusal: of the newest deployment that was refused, until a later one is live.
        trouble: why the wish cannot be loaded yet; it is tried again.
    """

    def __init__(self, slot: ModelSlot, loader: BundleLoader, metrics: Metrics) -> None:
        super().__init__(name="follower", daemon=True)
        self._slot, self._loader, self._metrics = slot, loader, metrics
        self._changed = threading.Condition()
        self._wish: DesiredDeployment | None = None
        self._tried: DesiredDeployment | None = None
        self._catalog = "silent"
        self._stopping = False
        self._retry_at, self._retry = 0.0, FIRST_RETRY
        self.refusal: Refusal | None = None
        self.trouble: str | None = None
        self.on_change: Callable[[], None] = lambda: None

    def want(self, order: DesiredDeployment | None, tried: DesiredDeployment | None = None) -> None:
        """What the catalog says should run, and what should be tried beside it; None: nothing."""
        with self._changed:
            if (order, tried) != (self._wish, self._tried):
                self._retry_at, self._retry = 0.0, FIRST_RETRY
            self._wish, self._tried, self._catalog = order, tried, "answers"
            self._changed.notify()

    def unreachable(self) -> None:
        """The catalog does not answer: an empty slot need not wait for it."""
        with self._changed:
            self._catalog = "away"
            self._changed.notify()

    def stop(self, seconds: float) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self.join(seconds)

    def run(self) -> None:
        _step_back()
        with self._changed:
            self._changed.wait_for(lambda: self._catalog != "silent" or self._stopping, PATIENCE)
            alone = not self._stopping and self._catalog != "answers"
        if alone:
            self._serve_last_good()
        while (step := self._next()) is not None:
            step()

    def _next(self) -> Callable[[], None] | None:
        """Waits for something to do: a wish that is neither live nor refused, or another trial; None when stopped."""
        with self._changed:
            while not self._stopping:
                wait = self._retry_at - time.monotonic()
                step = self._step()
                if step is not None and wait <= 0:
                    return step
                self._changed.wait(wait if step is not None else None)
        return None

    def _step(self) -> Callable[[], None] | None:
        wish, tried, live = self._wish, self._tried, self._slot.take()
        if wish is not None and self._is_open(wish, live):
            return lambda: self._follow(wish, self._swap)
        if live is None or wish is None or live.deployment_id != wish.deployment_id:
            return None
        if live.trial is not None and (tried is None or live.trial.candidate.deployment_id != tried.deployment_id):
            return self._end_trial
        if tried is not None and self._is_open(tried, live.trial.candidate if live.trial else None):
            return lambda: self._follow(tried, self._try_out)
        return None

    def _is_open(self, order: DesiredDeployment, held: ServingModel | None) -> bool:
        return (held is None or held.deployment_id != order.deployment_id) and (
            self.refusal is None or self.refusal.deployment_id != order.deployment_id
        )

    def _follow(self, order: DesiredDeployment, take: Callable[[DesiredDeployment], None]) -> None:
        try:
            take(order)
            self.refusal = self.trouble = None
            self.on_change()
        except (IntegrityError, NotFoundError) as error:
            log.error("deployment %d refused, the old model goes on: %s", order.deployment_id, error)
            self.refusal, self.trouble = Refusal(order.deployment_id, str(error)), None
            self._metrics.reloads.labels("refused").inc()
            self.on_change()
            self._fill_empty_slot()
        except Exception as error:  # noqa: BLE001 - away, disk full: whatever it is, it may pass
            if self._retry == FIRST_RETRY:
                log.warning("deployment %d cannot be loaded yet, trying again: %s", order.deployment_id, error)
            self._retry_at = time.monotonic() + self._retry
            self._retry = min(LONGEST_RETRY, self._retry * 2)
            self.trouble = str(error)
            self.on_change()
            self._fill_empty_slot()

    def _swap(self, order: DesiredDeployment) -> None:
        self._slot.put(self._loaded(order))
        self._metrics.model_version.set(order.model_version)
        self._metrics.reloads.labels("swapped").inc()
        log.info("model version %d is live (deployment %d)", order.model_version, order.deployment_id)
        try:
            self._loader.remember(order)
        except OSError as error:
            log.warning("a start without the catalog would not know of deployment %d: %s", order.deployment_id, error)

    def _try_out(self, order: DesiredDeployment) -> None:
        self._slot.put_trial(Trial(self._loaded(order), order.strategy, order.share, TrialCounters()))
        told = (order.model_version, order.strategy, order.deployment_id)
        log.info("model version %d is tried as a %s (deployment %d)", *told)

    def _end_trial(self) -> None:
        self._slot.put_trial(None)
        self.on_change()

    def _loaded(self, order: DesiredDeployment) -> ServingModel:
        """With the model that is here already, where one of those has the same bytes."""
        live = self._slot.take()
        here = [held for held in (live, live.trial.candidate if live and live.trial else None) if held]
        model = next((held.model for held in here if held.digest == order.bundle_digest), None)
        model = model or self._loader.load(order)
        return ServingModel(model, order.model_version, order.deployment_id, order.bundle_digest, order.since)

    def _fill_empty_slot(self) -> None:
        if self._slot.take() is None:
            self._serve_last_good()

    def _serve_last_good(self) -> None:
        try:
            order = self._loader.last_good()
            if order:
                self._swap(order)
                self.on_change()
                log.warning("serving what served last, model version %d", order.model_version)
        except (EvergreenError, OSError) as error:
            log.error("what served last cannot be served: %s", error)


def _step_back() -> None:
    """This thread gives way to the one that answers: Linux takes niceness as a thread's own (sched(7))."""
    if sys.platform == "linux":
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, min(19, os.getpriority(os.PRIO_PROCESS, own) + _NICE))
