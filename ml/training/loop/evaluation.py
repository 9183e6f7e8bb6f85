"""Evaluation of a network on the validation samples: by class, by confidence, and its worst errors."""

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
    """Figures of one class. `precision`, `recall` and `f1` are None where undefined.

    Attributes:
        trained: number of training samples.
        judged: number of validation samples; `answered`: number of predictions of this class.
        mostly_taken_for: the most frequent wrong prediction, empty if there was none.
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
    """True labels and calibrated predictions.

    Attributes:
        truth: ``int64[N]``, N ≥ 1, positions in `classes`.
        probabilities: ``float32[N, classes]``.
        trained: ``int64[classes]``, training samples per class.
    """

    truth: Labels
    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    trained: NDArray[np.int64]

    @property
    def answers(self) -> Labels:
        positions: Labels = self.probabilities.argmax(1)
        return positions

    @property
    def label_probabilities(self) -> NDArray[np.float32]:
        """``float32[N]``: the probability of the true label."""
        return self.probabilities[np.arange(len(self.truth)), self.truth]

    @property
    def accuracy(self) -> float:
        return float((self.answers == self.truth).mean())

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood in nats."""
        return float(-np.log(np.maximum(self.label_probabilities, 1e-12)).mean())

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in 15 bins."""
        return calibration.error(self.probabilities.max(1), self.answers == self.truth, _BINS)

    def confusion(self) -> NDArray[np.int64]:
        """Confusion matrix of counts: a row per true label, a column per prediction."""
        matrix = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(matrix, (self.truth, self.answers), 1)
        return matrix

    def by_class(self) -> list[ClassRow]:
        matrix = self.confusion()
        right, support, answered = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        wrong = matrix - np.diag(right)
        return [
            ClassRow(
                label,
                int(self.trained[i]),
                int(support[i]),
                int(answered[i]),
                _share(right[i], answered[i]),
                _share(right[i], support[i]),
                _share(2 * right[i], support[i] + answered[i]),
                self.classes[int(wrong[i].argmax())] if wrong[i].any() else "",
            )
            for i, label in enumerate(self.classes)
        ]

    def worst(self, limit: int) -> Labels:
        """Positions of wrong predictions, ordered by the probability of the true label, lowest first."""
        wrong = np.flatnonzero(self.answers != self.truth)
        return wrong[np.argsort(self.label_probabilities[wrong], kind="stable")][:limit]


def as_csv(rows: list[ClassRow]) -> str:
    """A CSV table with a header; undefined figures are empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(ClassRow.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(row) for row in rows)
    return out.getvalue()


def _share(part: int, total: int) -> float | None:
    return round(float(part / total), 4) if total else None
