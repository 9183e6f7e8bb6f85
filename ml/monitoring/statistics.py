"""Drift statistics; pure functions."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

_MIN_SHARE = 1e-4


def population_stability(expected: Sequence[float], observed: Sequence[float]) -> float:
    """The population stability index (PSI) of two distributions: below 0.1 little shift, above 0.25 much.

    The symmetric Kullback–Leibler divergence; see Siddiqi, Credit Risk Scorecards (2006). Empty cells
    count as `_MIN_SHARE`, so that an unseen class gives a large but finite index.
    """
    e = np.maximum(np.asarray(expected, float), _MIN_SHARE)
    f = np.maximum(np.asarray(observed, float), _MIN_SHARE)
    return float(((f - e) * np.log(f / e)).sum())


def noise(cells: int, count: int) -> float:
    """The index that `count` predictions rarely exceed by chance, without any shift (three sigma).

    Without shift the index is about chi-squared / `count` with ``cells - 1`` degrees of freedom (Yurdakul
    & Naranjo, Statistical properties of the population stability index, 2020), the expected shares
    being known precisely. It is large for many classes and few predictions: 0.25 is within noise for
    100 classes and 200 predictions.
    """
    freedom = max(1, cells - 1)
    return (freedom + 3 * math.sqrt(2 * freedom)) / max(1, count)


def class_shift(expected: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """PSI of predicted classes against the training set's class shares."""
    classes = sorted({*expected, *counts})
    total = max(1, sum(counts.values()))
    return population_stability([expected.get(c, 0.0) for c in classes], [counts.get(c, 0) / total for c in classes])


def confidence_shift(deciles: Sequence[float], confidences: Sequence[float]) -> float:
    """PSI of confidences over the bins between the validation split's deciles; 0 without deciles.

    Saturated confidences give equal deciles; their bins are merged.

    Args:
        deciles: nine ascending values, a tenth of the validation split below the first.
        confidences: of the predictions to compare.
    """
    if not deciles or not len(confidences):
        return 0.0
    # No confidence exceeds 1, so a decile of 1 ends no bin.
    edges, widths = np.unique([d for d in deciles if d < 1], return_counts=True)
    expected = np.append(widths, 10 - widths.sum()) / 10
    observed = np.bincount(np.searchsorted(edges, np.asarray(confidences), side="left"), minlength=len(edges) + 1)
    return population_stability(list(expected), list(observed / len(confidences)))
