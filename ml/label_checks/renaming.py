"""Whether a drop's labels are right but for being exchanged: every 0 is called 1, every 1 is called 2.

A classifier of the stored samples is a poor witness on images of another kind, but what it gets wrong there it does not
get wrong in favour of one renaming of the classes. So the renaming under which its answers agree best with the labels
(one to one, Kuhn 1955) is found on one half of the images and judged on the other.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ml.label_checks.agreement import Agreement, agreement

Ids = NDArray[np.int64]

_MOST_CLASSES: Final = 500
"""The cost grows with the third power."""
_LEAST_IMAGES: Final = 30
_SURE: Final = 3.3
"""Standard errors by which the renamed answers must agree; 2.33 by which they must agree better."""


@dataclass(frozen=True)
class Renaming:
    """A renaming under which a drop's labels agree with the stored samples, and otherwise hardly do.

    Attributes:
        given, likely: the classes that are exchanged: called so, and what they look like; the most frequent first.
        as_given, renamed: agreement of answers and labels, as they are and under the renaming.
        positions: of the images that bear such a class and look like the other.
    """

    given: tuple[int, ...]
    likely: tuple[int, ...]
    as_given: Agreement
    renamed: Agreement
    positions: tuple[int, ...]


def find(answers: Ids, given: Ids, classes: int) -> Renaming | None:
    """Find such a renaming; None if there is none, too few images, or too many classes.

    Args:
        answers: of a classifier of stored samples, ``int64[N]``, in an order that does not depend on labels.
        given: labels of the drop, ``int64[N]``.
        classes: class numbers are below it.
    """
    present = np.unique(np.concatenate([answers, given]))
    if len(given) < _LEAST_IMAGES or len(present) > _MOST_CLASSES:
        return None
    compact_answers, compact_given = np.searchsorted(present, answers), np.searchsorted(present, given)
    mapped = np.empty_like(answers)
    for part in (0, 1):
        judged = np.arange(len(given)) % 2 == part
        names = _best(compact_answers[~judged], compact_given[~judged], len(present))
        mapped[judged] = present[names[compact_answers[judged]]]
    as_given, renamed = agreement(answers, given, classes), agreement(mapped, given, classes)
    surely = renamed.kappa > _SURE * renamed.error
    better = as_given.kappa + 2.33 * as_given.error < renamed.kappa and as_given.kappa < 0.5 * renamed.kappa
    if not (surely and better):
        return None
    moved = np.flatnonzero((mapped == given) & (answers != given))
    pairs, counts = np.unique(np.stack([given[moved], answers[moved]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return Renaming(
        tuple(pairs[0, order].tolist()),
        tuple(pairs[1, order].tolist()),
        as_given,
        renamed,
        tuple(moved.tolist()),
    )


def _best(answers: Ids, given: Ids, classes: int) -> Ids:
    """The label for each answer, so that most agree, ``int64[classes]``."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (answers, given), 1)
    _, columns = linear_sum_assignment(table, maximize=True)
    return np.asarray(columns, np.int64)
