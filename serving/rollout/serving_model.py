"""A worker's live model. Replacing it is one assignment, so a request that reads it once uses one model throughout.

A candidate on trial is an attribute of the live model and is replaced with it: a request that read the
live model has read its candidate too.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from ml.models.model import Model
from serving.rollout.trial_counters import TrialCounters


@dataclass(frozen=True)
class ServingModel:
    """A model that answers, and the deployment that set it there; immutable.

    Attributes:
        since: when the deployment was made, the same on every replica.
        trial: the candidate on trial beside it.
    """

    model: Model
    version: int
    deployment_id: int
    digest: str
    since: datetime
    trial: "Trial | None" = None


@dataclass(frozen=True)
class Trial:
    """A candidate on trial: a canary answers its share of the traffic, a shadow's answers are only compared.

    Attributes:
        counters: this worker's counts of the trial.
    """

    candidate: ServingModel
    strategy: str
    share: float
    counters: TrialCounters


class ModelSlot:
    """Holds a worker's live model; empty until the first is loaded. One thread writes, any may read."""

    def __init__(self) -> None:
        self._live: ServingModel | None = None

    def get(self) -> ServingModel | None:
        """The live model, or None. Read it once per request and use only that."""
        return self._live

    def set(self, live: ServingModel) -> None:
        self._live = live

    def set_trial(self, trial: Trial | None) -> None:
        """Set the live model's trial, None to end it; a no-op while there is no live model."""
        if self._live is not None:
            self._live = replace(self._live, trial=trial)
