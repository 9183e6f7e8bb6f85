"""One worker's counters of a trial: sums that only grow, so that the last ones written are the totals."""

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

MAX_DISAGREEMENTS: Final = 500
"""Disagreements that one worker records per trial; further ones are only counted."""


@dataclass(frozen=True)
class Disagreement:
    """The live model's answer to an image, and the shadow's."""

    prediction_id: UUID
    live_label: str
    live_probability: float
    candidate_label: str
    candidate_probability: float


class TrialCounters:
    """Thread-safe counters and disagreements of a trial."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._disagreements: list[Disagreement] = []
        self._remaining = MAX_DISAGREEMENTS

    def add(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self._sums[name] += amount

    def add_disagreement(self, disagreement: Disagreement) -> None:
        with self._lock:
            self._sums["disagreed"] += 1
            if self._remaining:
                self._remaining -= 1
                self._disagreements.append(disagreement)

    def totals(self) -> dict[str, float]:
        """Totals by name since the trial began."""
        with self._lock:
            return dict(self._sums)

    def pop_disagreements(self) -> list[Disagreement]:
        """Disagreements since the last call."""
        with self._lock:
            disagreements, self._disagreements = self._disagreements, []
            return disagreements

    def restore_disagreements(self, disagreements: list[Disagreement]) -> None:
        """Put back disagreements that could not be stored."""
        with self._lock:
            self._disagreements = disagreements + self._disagreements
