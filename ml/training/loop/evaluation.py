"""How a network did on the samples that judged it: by class, by confidence, and where it was most wrong."""

import csv
import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.models import calibration
from ml.training.data.feed import Labels

_BINS: Final = 15


@dataclass(frozen=True)
class ClassRow:
    """One class. `precision`, `recall` and `f1` are None where nothing defines them.

    Attributes:
        trained: samples it was learned from.
        judged: samples it was judged on; `answered`: how often it was the answer.
        mostly_taken_for: the commonest wrong answer to it, empty if there was none.
    """

    label: str
    trained: int
    judged: int
    answered: int
    precision: float | None
    recall: float | None
    f1: float | None
    mostly_taken_for: str


@dataclass(frozen=True)
class Evaluation:
    """Given labels and calibrated answers.

    Attributes:
        truth: ``int64[N]``, N ≥ 1, positions in `classes`.
        probabilities: ``float32[N, classes]``.
        trained: samples learned from, a class each.
    """

    truth: Labels
    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    trained: NDArray[np.int64]

    @property
    def answers(self) -> Labels:
        found: Labels = self.probabilities.argmax(1)
        return found

    @property
    def given(self) -> NDArray[np.float32]:
        """``float32[N]``: the probability of the given label."""
        return self.probabilities[np.arange(len(self.truth)), self.truth]

    @property
    def accuracy(self) -> float:
        return float((self.answers == self.truth).mean())

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood in nats."""
        return float(-np.log(np.maximum(self.given, 1e-12)).mean())

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in 15 bins."""
        return calibration.error(self.probabilities.max(1), self.answers == self.truth, _BINS)

    def confusion(self) -> NDArray[np.int64]:
        """Counts, a row for each given label, a column for each answer."""
        matrix = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(matrix, (self.truth, self.answers), 1)
        return matrix

    def by_class(self) -> list[ClassRow]:
        matrix = self.confusion()
        right, judged, answered = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        wrong = matrix - np.diag(right)
        return [
            ClassRow(
                label,
                int(self.trained[i]),
                int(judged[i]),
                int(answered[i]),
                _share(right[i], answered[i]),
                _share(right[i], judged[i]),
                _share(2 * right[i], judged[i] + answered[i]),
                self.classes[int(wrong[i].argmax())] if wrong[i].any() else "",
            )
            for i, label in enumerate(self.classes)
        ]

    def worst(self, most: int) -> Labels:
        """Positions of wrong answers, those first to which the given label seemed least likely."""
        wrong = np.flatnonzero(self.answers != self.truth)
        return wrong[np.argsort(self.given[wrong], kind="stable")][:most]


def as_csv(rows: list[ClassRow]) -> str:
    """A table with a header; undefined figures are empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(ClassRow.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(row) for row in rows)
    return out.getvalue()


def _share(part: int, whole: int) -> float | None:
    return round(float(part / whole), 4) if whole else None
