"""The live model. Swapping it is one assignment, so a request that took it once has one whole model."""

from dataclasses import dataclass
from datetime import datetime

from ml.model import Model


@dataclass(frozen=True)
class Live:
    """A model that answers, and the deployment that put it there; immutable.

    Attributes:
        since: when the deployment was made, the same on every replica.
    """

    model: Model
    version: int
    deployment_id: int
    digest: str
    since: datetime


class ModelSlot:
    """One for a worker; empty until the first model is in."""

    def __init__(self) -> None:
        self._live: Live | None = None

    def take(self) -> Live | None:
        """The model of this moment. Take it once a request and use only that."""
        return self._live

    def put(self, live: Live) -> None:
        self._live = live
