"""Tests and confidence bounds for the mean of paired differences, by betting. Pure functions.

A gambler bets on each difference x that the mean is above m: wealth is the product of ``1 + bet * (x - m)``. If the
mean is m or less, wealth multiplies by W with probability at most 1 / W, for any number of samples and any
distribution within the bound (Ville 1939; Waudby-Smith and Ramdas, J. R. Stat. Soc. B 86 (2024)). Two uses:

- `p_value` and `lower_bound` spread the wealth evenly over a few bets fixed in advance. They hold for any number of
  samples and any level, at the cost of some width.
- `score` takes the best bet in hindsight. Twice its log wealth is the empirical likelihood ratio of Owen
  (Biometrika 75 (1988)), within the bound, so its signed root is asymptotically standard normal: sharp, but not valid
  for tiny levels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp

_BET_SPREADS: Final = 1.5 ** -np.arange(10)
"""Standard deviations, as shares of the bound; the bets include the optimal one for each."""
_DIGITS: Final = 4
"""Decimal places that differences are rounded to, so that there are few distinct values; errors average out."""


@dataclass(frozen=True)
class Differences:
    """Paired differences, one per sample: distinct `values` and their `counts`, all within ± `bound`."""

    values: NDArray[np.float64]
    counts: NDArray[np.int64]
    bound: float

    @classmethod
    def from_samples(cls, differences: NDArray[np.floating], bound: float = 1.0) -> Self:
        """From differences ``float[N]``, N ≥ 1; a larger difference becomes the bound."""
        values, counts = np.unique(np.asarray(differences, np.float64).round(_DIGITS), return_counts=True)
        return cls(values, counts.astype(np.int64), max(bound, float(np.abs(values[[0, -1]]).max())))

    @property
    def samples(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return float(self.values @ self.counts) / self.samples

    @property
    def negated(self) -> Self:
        return type(self)(-self.values[::-1], self.counts[::-1], self.bound)


def p_value(differences: Differences, mean: float, level: float) -> float:
    """p-value of the hypothesis that the mean is at most `mean`; valid for any N.

    Args:
        level: the level it will be compared with; the bets are chosen to be sharp there.
    """
    return math.exp(min(0.0, -_log_wealth(differences, mean, level)))


def lower_bound(differences: Differences, level: float) -> float:
    """The mean is below this with probability at most `level`, for any N and any level."""
    return _solve(differences, lambda mean: _log_wealth(differences, mean, level) + math.log(level))


def score(differences: Differences, mean: float) -> float:
    """Signed root of the likelihood ratio: standard normal if the true mean is `mean`, positive if it is larger."""
    if differences.mean <= mean:
        return -score(differences.negated, -mean) if differences.mean < mean else 0.0
    excess = differences.values - mean

    def slope(bet: float) -> float:
        return float(differences.counts @ (excess / (1 + bet * excess)))

    best = _max_bet(differences, mean)
    if slope(0.0) <= 0:  # equal to the mean, up to rounding
        return 0.0
    if slope(best) < 0:
        best = brentq(slope, 0.0, best, xtol=1e-12, rtol=1e-9)
    return math.sqrt(2 * max(0.0, float(differences.counts @ np.log1p(best * excess))))


def usual_bound(differences: Differences, deviations: float) -> float:
    """Lower bound of the mean at the confidence of that many standard `deviations`, for many samples."""
    return _solve(differences, lambda mean: score(differences, mean) - deviations)


def _max_bet(differences: Differences, mean: float) -> float:
    """Slightly less than the bet that loses all wealth at the smallest possible difference."""
    return (1 - 1e-9) / (differences.bound + mean)


def _log_wealth(differences: Differences, mean: float, level: float) -> float:
    """Logarithm of the wealth, split evenly over the bets."""
    if mean <= -differences.bound:
        return math.inf
    ideal_bets = math.sqrt(-2 * math.log(level) / differences.samples) / (_BET_SPREADS * differences.bound)
    bets = np.minimum(ideal_bets, 0.9 * _max_bet(differences, mean))
    wealth = np.log1p(bets[:, None] * (differences.values - mean)) @ differences.counts
    return float(logsumexp(wealth)) - math.log(len(bets))


def _solve(differences: Differences, evidence: Callable[[float], float]) -> float:
    """Solve for the mean, below the observed one, at which the decreasing function `evidence` is zero."""
    low = -differences.bound * (1 - 1e-9)
    if evidence(low) <= 0:
        return -differences.bound
    return float(brentq(evidence, low, differences.mean, xtol=1e-7))
