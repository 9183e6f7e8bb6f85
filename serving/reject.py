"""The option to say that an answer is not to be relied on: too unsure, or the image is like none the model knows."""

from dataclasses import dataclass
from typing import Literal

from ml.settings import Settings

Reason = Literal["unsure", "unfamiliar"]


@dataclass(frozen=True)
class Reject:
    """Limits; the defaults reject nothing.

    Attributes:
        below: confidences below this are too unsure.
        beyond: distances beyond this are unfamiliar; 1 is what one of a hundred familiar images exceeds.
    """

    below: float = 0.0
    beyond: float | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Reject":
        return cls(settings.reject_below, settings.reject_beyond)

    def reason(self, confidence: float, distance: float | None) -> Reason | None:
        """Why an answer is rejected, None if it is not. Unfamiliar goes first: confidence means nothing there."""
        if self.beyond is not None and distance is not None and distance > self.beyond:
            return "unfamiliar"
        return "unsure" if confidence < self.below else None
