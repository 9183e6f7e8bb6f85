"""Measures of shift. Pure."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

_LEAST = 1e-4


def population_stability(expected: Sequence[float], found: Sequence[float]) -> float:
    """The population stability index of two sets of shares: below 0.1 little, above 0.25 much.

    The symmetric Kullback–Leibler divergence; see Siddiqi, Credit Risk Scorecards (2006). Empty cells
    count as `_LEAST`, so that a class never seen before gives a large but finite index.
    """
    e = np.maximum(np.asarray(expected, float), _LEAST)
    f = np.maximum(np.asarray(found, float), _LEAST)
    return float(((f - e) * np.log(f / e)).sum())


def noise(cells: int, count: int) -> float:
    """The index that `count` answers reach by chance alone, without any shift, hardly ever (three sigma).

    Without shift the index is about chi-squared / `count` with ``cells - 1`` degrees of freedom (Yurdakul
    & Naranjo, Statistical properties of the population stability index, 2020), the expected shares
    being known well. Many classes and few answers make it large: 0.25 is nothing for 100 classes and
    200 answers.
    """
    freedom = max(1, cells - 1)
    return (freedom + 3 * math.sqrt(2 * freedom)) / max(1, count)


def class_shift(expected: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """PSI of answered classes against the training set's class shares."""
    classes = sorted({*expected, *counts})
    total = max(1, sum(counts.values()))
    return population_stability([expected.get(c, 0.0) for c in classes], [counts.get(c, 0) / total for c in classes])


def confidence_shift(deciles: Sequence[float], confidences: Sequence[float]) -> float:
    """PSI of confidences over the bins that the validation split's deciles make; 0 without deciles.

    Confidences that saturate give equal deciles; the bins between them are one.

    Args:
        deciles: nine ascending values, a tenth of the validation split below the first.
        confidences: of the answers to judge.
    """
    if not deciles or not len(confidences):
        return 0.0
    # Nothing lies above 1, so a decile there ends no bin.
    edges, widths = np.unique([d for d in deciles if d < 1], return_counts=True)
    expected = np.append(widths, 10 - widths.sum()) / 10
    found = np.bincount(np.searchsorted(edges, np.asarray(confidences), side="left"), minlength=len(edges) + 1)
    return population_stability(list(expected), list(found / len(confidences)))
