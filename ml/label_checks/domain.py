"""Whether a drop's images are of the kind that is stored: a classifier two-sample test (Lopez-Paz and Oquab, 2017)."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_RIDGE: Final = 0.3
_LEAST: Final = 10
_MOST: Final = 500
_RATIO: Final = 2


def separability(drop: Floats, stored: Floats, drop_answers: Ids, stored_answers: Ids) -> float | None:
    """How well drop and stored images can be told apart: area under the ROC curve, 0.5 is not at all, 1 always.

    Only images that get the same answers are compared, so that another mix of classes is not another kind of image.

    Args:
        drop: features ``float32[N, D]``.
        stored: features ``float32[M, D]``.
        drop_answers: the class that the classifier gives each image.
        stored_answers: the same of the stored ones, held out.

    Returns:
        None if there are too few images to compare.
    """
    ours, theirs = _matched(drop_answers, stored_answers)
    if min(len(ours), len(theirs)) < _LEAST:
        return None
    points = np.concatenate([drop[ours], stored[theirs]])
    points = (points - points.mean(0)) / (points.std(0) + np.float32(1e-3))
    sides = np.r_[np.ones(len(ours)), np.zeros(len(theirs))]
    sides = np.where(sides == 1, 1 / len(ours), -1 / len(theirs)).astype(np.float32) * np.float32(len(sides))
    return _area(_held_out(points, sides), len(ours))


def _matched(drop: Ids, stored: Ids) -> tuple[Ids, Ids]:
    ours, theirs = [], []
    for answer in np.unique(drop):
        mine, others = np.flatnonzero(drop == answer), np.flatnonzero(stored == answer)
        mine, others = mine[: _RATIO * len(others)], others[: _RATIO * len(mine)]
        ours.append(mine)
        theirs.append(others)
    first, second = np.concatenate(ours), np.concatenate(theirs)
    return first[:: max(1, len(first) // _MOST)], second[:: max(1, len(second) // _MOST)]


def _held_out(points: Floats, targets: Floats) -> Floats:
    """Leave-one-out predictions of a ridge regression."""
    count, size = points.shape
    gram = points.T @ points
    gram[np.diag_indices(size)] += np.float32(_RIDGE * count)
    projected = points @ np.linalg.inv(gram)
    predicted = projected @ (points.T @ targets)
    leverage = (projected * points).sum(1)
    result: Floats = (predicted - leverage * targets) / (1 - np.minimum(leverage, 0.999))
    return result


def _area(values: Floats, positives: int) -> float:
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable") + 1
    negatives = len(values) - positives
    return float((order[:positives].sum() - positives * (positives + 1) / 2) / (positives * negatives))
