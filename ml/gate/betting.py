"""What paired differences say about their mean: tests and bounds by betting. Pure.

A gambler bets on each difference x that the mean is above m: wealth is the product of ``1 + bet * (x - m)``. If the
mean is m or less, wealth multiplies by W with probability at most 1 / W, for any number of samples and any
distribution within the bound (Ville 1939; Waudby-Smith and Ramdas, J. R. Stat. Soc. B 86 (2024)). Two uses:

- `p_value` and `lower_bound` spread the gambler's money over a few bets that were fixed before. They hold for every
  number of samples and for levels as small as you like, and pay for that with some width.
- `score` takes the best bet in hindsight. Twice its log wealth is the empirical likelihood ratio of Owen
  (Biometrika 75 (1988)), within the bound, so its signed root is a standard normal for many samples: as sharp as
  tests are, but not for tiny levels.
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
"""Standard deviations, as shares of the bound, for each of which the best bet is among those that are made."""
_DIGITS: Final = 4
"""That are kept of a difference, so that there are few distinct ones; what is rounded off averages out."""


@dataclass(frozen=True)
class Differences:
    """Paired differences, one a sample: distinct `values` and how often each occurs; none is beyond ± `bound`."""

    values: NDArray[np.float64]
    counts: NDArray[np.int64]
    bound: float

    @classmethod
    def from_samples(cls, differences: NDArray[np.floating], bound: float = 1.0) -> Self:
        """Differences ``float[N]``, N ≥ 1; where one is beyond the bound, that is the bound."""
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
    """An upper bound of the chance of such differences if their mean is at most `mean`; valid for any N.

    Args:
        level: at which it will be compared; the bets are made so that it is sharp there.
    """
    return math.exp(min(0.0, -_log_wealth(differences, mean, level)))


def lower_bound(differences: Differences, level: float) -> float:
    """The mean is below this with probability at most `level`, for any N and any level."""
    return _solve(differences, lambda mean: _log_wealth(differences, mean, level) + math.log(level))


def score(differences: Differences, mean: float) -> float:
    """How many standard deviations the differences lie above `mean`; a standard normal if that is the mean."""
    if differences.mean <= mean:
        return -score(differences.negated, -mean) if differences.mean < mean else 0.0
    excess = differences.values - mean

    def slope(bet: float) -> float:
        return float(differences.counts @ (excess / (1 + bet * excess)))

    best = _max_bet(differences, mean)
    if slope(0.0) <= 0:  # the mean itself, but for rounding
        return 0.0
    if slope(best) < 0:
        best = brentq(slope, 0.0, best, xtol=1e-12, rtol=1e-9)
    return math.sqrt(2 * max(0.0, float(differences.counts @ np.log1p(best * excess))))


def usual_bound(differences: Differences, deviations: float) -> float:
    """The mean is above this, with the confidence that so many standard `deviations` give, for many samples."""
    return _solve(differences, lambda mean: score(differences, mean) - deviations)


def _max_bet(differences: Differences, mean: float) -> float:
    """The bet that loses all where a difference is as small as can be; a little less."""
    return (1 - 1e-9) / (differences.bound + mean)


def _log_wealth(differences: Differences, mean: float, level: float) -> float:
    """Logarithm of the wealth, with the money spread evenly over the bets."""
    if mean <= -differences.bound:
        return math.inf
    ideal_bets = math.sqrt(-2 * math.log(level) / differences.samples) / (_BET_SPREADS * differences.bound)
    bets = np.minimum(ideal_bets, 0.9 * _max_bet(differences, mean))
    wealth = np.log1p(bets[:, None] * (differences.values - mean)) @ differences.counts
    return float(logsumexp(wealth)) - math.log(len(bets))


def _solve(differences: Differences, evidence: Callable[[float], float]) -> float:
    """The mean below that of the differences at which the falling `evidence` against smaller ones is zero."""
    low = -differences.bound * (1 - 1e-9)
    if evidence(low) <= 0:
        return -differences.bound
    return float(brentq(evidence, low, differences.mean, xtol=1e-7))
