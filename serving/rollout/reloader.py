"""Loads, verifies and swaps in the desired deployment. A bad bundle is reported, and the old model keeps serving."""

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

CATALOG_WAIT_SECONDS: Final = 1.5
"""Seconds that a starting worker waits for the catalog before it serves the last good deployment."""
FIRST_RETRY: Final = 0.5
MAX_RETRY: Final = 10.0
_NICE: Final = 10
"""Leaves about a tenth of a busy core: at full load models load later, and requests are not delayed."""


@dataclass(frozen=True)
class Refusal:
    """A deployment that this worker refused, and the reason."""

    deployment_id: int
    reason: str


class ModelReloader(threading.Thread):
    """Loads the newest desired deployment, and the candidate to be tried beside it.

    Attributes:
        refusal: the newest deployment that was refused, until a later one is live.
        load_error: why the desired deployment cannot be loaded yet; loading is retried.
    """

    def __init__(self, slot: ModelSlot, loader: BundleLoader, metrics: Metrics) -> None:
        super().__init__(name="model-reloader", daemon=True)
        self._slot, self._loader, self._metrics = slot, loader, metrics
        self._changed = threading.Condition()
        self._desired: DesiredDeployment | None = None
        self._desired_trial: DesiredDeployment | None = None
        self._catalog = "silent"
        self._stopping = False
        self._retry_at, self._retry = 0.0, FIRST_RETRY
        self.refusal: Refusal | None = None
        self.load_error: str | None = None
        self.on_change: Callable[[], None] = lambda: None

    def set_desired(self, deployment: DesiredDeployment | None, desired_trial: DesiredDeployment | None = None) -> None:
        """Set the deployment that the catalog wants live, and the one on trial beside it; None for no deployment."""
        with self._changed:
            if (deployment, desired_trial) != (self._desired, self._desired_trial):
                self._retry_at, self._retry = 0.0, FIRST_RETRY
            self._desired, self._desired_trial, self._catalog = deployment, desired_trial, "answers"
            self._changed.notify()

    def catalog_unreachable(self) -> None:
        """Report that the catalog does not answer, so that a worker without a model stops waiting for it."""
        with self._changed:
            self._catalog = "away"
            self._changed.notify()

    def stop(self, seconds: float) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self.join(seconds)

    def run(self) -> None:
        _lower_priority()
        with self._changed:
            self._changed.wait_for(lambda: self._catalog != "silent" or self._stopping, CATALOG_WAIT_SECONDS)
            without_catalog = not self._stopping and self._catalog != "answers"
        if without_catalog:
            self._serve_last_good()
        while (step := self._next()) is not None:
            step()

    def _next(self) -> Callable[[], None] | None:
        """Wait for the next step: a deployment neither live nor refused, or another trial; None when stopped."""
        with self._changed:
            while not self._stopping:
                wait = self._retry_at - time.monotonic()
                step = self._step()
                if step is not None and wait <= 0:
                    return step
                self._changed.wait(wait if step is not None else None)
        return None

    def _step(self) -> Callable[[], None] | None:
        desired, desired_trial, live = self._desired, self._desired_trial, self._slot.get()
        if desired is not None and self._is_pending(desired, live):
            return lambda: self._deploy(desired, self._swap)
        if live is None or desired is None or live.deployment_id != desired.deployment_id:
            return None
        if live.trial is not None and (
            desired_trial is None or live.trial.candidate.deployment_id != desired_trial.deployment_id
        ):
            return self._end_trial
        if desired_trial is not None and self._is_pending(desired_trial, live.trial.candidate if live.trial else None):
            return lambda: self._deploy(desired_trial, self._start_trial)
        return None

    def _is_pending(self, deployment: DesiredDeployment, current: ServingModel | None) -> bool:
        return (current is None or current.deployment_id != deployment.deployment_id) and (
            self.refusal is None or self.refusal.deployment_id != deployment.deployment_id
        )

    def _deploy(self, deployment: DesiredDeployment, deploy: Callable[[DesiredDeployment], None]) -> None:
        try:
            deploy(deployment)
            self.refusal = self.load_error = None
            self.on_change()
        except (IntegrityError, NotFoundError) as error:
            log.error("deployment %d refused, the old model keeps serving: %s", deployment.deployment_id, error)
            self.refusal, self.load_error = Refusal(deployment.deployment_id, str(error)), None
            self._metrics.reloads.labels("refused").inc()
            self.on_change()
            self._fill_empty_slot()
        except Exception as error:  # noqa: BLE001 - bucket unavailable, disk full, …: it may be temporary
            if self._retry == FIRST_RETRY:
                log.warning("deployment %d cannot be loaded yet, retrying: %s", deployment.deployment_id, error)
            self._retry_at = time.monotonic() + self._retry
            self._retry = min(MAX_RETRY, self._retry * 2)
            self.load_error = str(error)
            self.on_change()
            self._fill_empty_slot()

    def _swap(self, deployment: DesiredDeployment) -> None:
        self._slot.set(self._load(deployment))
        self._metrics.model_version.set(deployment.model_version)
        self._metrics.reloads.labels("swapped").inc()
        log.info("model version %d is live (deployment %d)", deployment.model_version, deployment.deployment_id)
        try:
            self._loader.save_last_good(deployment)
        except OSError as error:
            log.warning(
                "deployment %d was not saved as the last good one, for starts without the catalog: %s",
                deployment.deployment_id,
                error,
            )

    def _start_trial(self, deployment: DesiredDeployment) -> None:
        self._slot.set_trial(Trial(self._load(deployment), deployment.strategy, deployment.share, TrialCounters()))
        values = (deployment.model_version, deployment.strategy, deployment.deployment_id)
        log.info("model version %d is on trial as a %s (deployment %d)", *values)

    def _end_trial(self) -> None:
        self._slot.set_trial(None)
        self.on_change()

    def _load(self, deployment: DesiredDeployment) -> ServingModel:
        """Load the model, or reuse one that is loaded already from the same bundle."""
        live = self._slot.get()
        loaded = [m for m in (live, live.trial.candidate if live and live.trial else None) if m]
        model = next((m.model for m in loaded if m.digest == deployment.bundle_digest), None)
        model = model or self._loader.load(deployment)
        return ServingModel(
            model, deployment.model_version, deployment.deployment_id, deployment.bundle_digest, deployment.since
        )

    def _fill_empty_slot(self) -> None:
        if self._slot.get() is None:
            self._serve_last_good()

    def _serve_last_good(self) -> None:
        try:
            deployment = self._loader.read_last_good()
            if deployment:
                self._swap(deployment)
                self.on_change()
                log.warning("serving the last good deployment, model version %d", deployment.model_version)
        except (EvergreenError, OSError) as error:
            log.error("the last good deployment cannot be served: %s", error)


def _lower_priority() -> None:
    """Lower this thread's priority below the inference thread's: on Linux niceness is per thread (sched(7))."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICE))
