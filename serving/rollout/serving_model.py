"""The live model. Swapping it is one assignment, so a request that took it once has one whole model.

A candidate on trial hangs on the live model and comes and goes with the same assignment: who took the
live model once has also taken what is tried beside it.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from ml.models.model import Model
from serving.rollout.trial_counters import TrialCounters


@dataclass(frozen=True)
class ServingModel:
    """A model that answers, and the deployment that put it there; immutable.

    Attributes:
        since: when the deployment was made, the same on every replica.
        trial: what is tried beside it.
    """

    model: Model
    version: int
    deployment_id: int
    digest: str
    since: datetime
    trial: "Trial | None" = None


@dataclass(frozen=True)
class Trial:
    """A candidate: as a canary it answers its share of the traffic, as a shadow it is asked unseen.

    Attributes:
        tally: what this worker counts of it.
    """

    candidate: ServingModel
    strategy: str
    share: float
    tally: TrialCounters


class ModelSlot:
    """One for a worker; empty until the first model is in. One thread puts, any may take."""

    def __init__(self) -> None:
        self._live: ServingModel | None = None

    def take(self) -> ServingModel | None:
        """The model of this moment. Take it once a request and use only that."""
        return self._live

    def put(self, live: ServingModel) -> None:
        self._live = live

    def put_trial(self, trial: Trial | None) -> None:
        """Try this beside the live model, or nothing; nothing happens while there is none."""
        if self._live is not None:
            self._live = replace(self._live, trial=trial)
