"""What one worker counts of a trial: sums that only grow, so that the last ones sent are the right ones."""

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

KEPT: Final = 500
"""Disagreements that one worker notes of one trial; beyond that they are only counted."""


@dataclass(frozen=True)
class Disagreement:
    """An answer, and the one that a shadow would have given."""

    prediction_id: UUID
    live_label: str
    live_probability: float
    candidate_label: str
    candidate_probability: float


class TrialCounters:
    """For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._noted: list[Disagreement] = []
        self._room = KEPT

    def add(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self._sums[name] += amount

    def disagree(self, noted: Disagreement) -> None:
        with self._lock:
            self._sums["disagreed"] += 1
            if self._room:
                self._room -= 1
                self._noted.append(noted)

    def figures(self) -> dict[str, float]:
        """Sums by name, of all time."""
        with self._lock:
            return dict(self._sums)

    def take_noted(self) -> list[Disagreement]:
        """Disagreements since this was last asked."""
        with self._lock:
            taken, self._noted = self._noted, []
            return taken

    def give_back(self, taken: list[Disagreement]) -> None:
        """They could not be stored yet."""
        with self._lock:
            self._noted = taken + self._noted
