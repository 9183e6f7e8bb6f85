"""The lead of a challenger over another model on the same samples, with lower bounds. Pure functions.

Two scores are compared per sample: the configured metric and the Brier score (Brier, Mon. Weather Rev. 78
(1950)) of the probabilities. The Brier score is proper, and distinguishes two models with a third to a quarter of the
samples that accuracy needs (docs/decisions/0028); the metric is the goal.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from ml.gate import betting
from ml.gate.betting import Differences
from ml.gate.metrics import PerSample

BRIER_BOUND: Final = 1.0
"""Bound of the difference of two Brier scores; a larger observed difference becomes the bound."""
BRIER_RISK: Final = 0.2
"""Share of the metric's risk for the Brier score."""
_SUCCESSION: Final = 3


@dataclass(frozen=True)
class Lead:
    """Means over the samples, as shares; positive is better than the other model.

    Attributes:
        samples: number of compared samples; if 0, nothing is known and nothing can be lost.
        metric: gain in the metric.
        metric_least: lower bound of that gain.
        brier: decrease of the Brier score; None if unknown.
        brier_least: lower bound of that decrease.
    """

    samples: int
    metric: float
    metric_least: float
    brier: float | None
    brier_least: float | None

    @property
    def ahead(self) -> bool:
        """Better by the metric; if equal, by the Brier score."""
        return self.metric > 0 or (self.metric == 0 and (self.brier or 0.0) > 0)

    def holds(self, margin: float) -> bool:
        """Whether a loss beyond the margin is excluded for both the metric and the Brier score."""
        return self.metric_least > -margin and (self.brier_least is None or self.brier_least > -margin)


def lead(gains: PerSample, brier: NDArray[np.floating] | None, risk: float) -> Lead:
    """Compare two models on some samples.

    Args:
        gains: the metric's differences on these samples.
        brier: the other model's Brier score minus the challenger's, ``float[N]``, of the same; None: not known.
        risk: probability that a challenger that is worse by more than a margin passes, by the metric.
            Without Brier scores a fifth of it is used, since there is only one test then.
    """
    if not len(gains.differences):
        return Lead(0, 0.0, 0.0, None, None)
    metric = Differences.from_samples(gains.differences, gains.bound)
    strict = float(-ndtri(BRIER_RISK * risk))
    if brier is None:
        return Lead(metric.samples, metric.mean, betting.usual_bound(metric, strict), None, None)
    score = Differences.from_samples(brier[gains.counted] * gains.weights, BRIER_BOUND)
    usual = betting.usual_bound(metric, float(-ndtri(risk)))
    return Lead(metric.samples, metric.mean, usual, score.mean, betting.usual_bound(score, strict))


def succession_risk(risk: float) -> float:
    """The risk to pass to `lead`, without a Brier score, when it is asked whether a champion is the best so far.

    Three times the risk of a promotion is taken: the champion was promoted, so it was ahead on these samples before. In
    the simulated year the longest wait for a promotion falls by two nights, and 0.5 % of the sabotaged years do harm
    (docs/decisions/0028).
    """
    return min(0.5, _SUCCESSION * risk) / BRIER_RISK


def largest_loss(gains: PerSample, level: float) -> float:
    """Upper bound of the challenger's loss in the metric; exceeded with probability at most `level`.

    Holds for any number of samples and any level; for macro-F1, which is not a mean, only for many samples. Without
    samples the bound is the largest possible loss.
    """
    if not len(gains.differences):
        return gains.bound
    return max(0.0, -betting.lower_bound(Differences.from_samples(gains.differences, gains.bound), level))
