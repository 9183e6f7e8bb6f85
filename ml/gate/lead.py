"""How far a challenger is ahead of another model on the same samples, and how far it may be behind. Pure.

Two things are compared, sample by sample: the metric that was chosen, and the Brier score (Brier, Mon. Weather Rev. 78
(1950)) of the probabilities. The Brier score is proper, and tells two models apart with a third to a quarter of the
samples that right and wrong answers need (docs/decisions/0028); the metric is what people want.
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
"""Two models' Brier scores of a sample seldom differ by more; where they do, that is the bound."""
BRIER_RISK: Final = 0.2
"""Of the risk that is taken with the metric."""
_SUCCESSION: Final = 3


@dataclass(frozen=True)
class Lead:
    """Means over the samples, as shares; positive is better than the other model.

    Attributes:
        samples: that were compared; with none, nothing is known and nothing can be lost.
        metric: gain in the metric.
        metric_least: what that gain is at least, with the confidence asked for.
        brier: by how much the Brier score fell; None where it is not known.
        brier_least: likewise.
    """

    samples: int
    metric: float
    metric_least: float
    brier: float | None
    brier_least: float | None

    @property
    def ahead(self) -> bool:
        """By the metric; where that is even, by the Brier score."""
        return self.metric > 0 or (self.metric == 0 and (self.brier or 0.0) > 0)

    def holds(self, margin: float) -> bool:
        """Neither the metric nor the Brier score may be worse by more than the margin."""
        return self.metric_least > -margin and (self.brier_least is None or self.brier_least > -margin)


def lead(gains: PerSample, brier: NDArray[np.floating] | None, risk: float) -> Lead:
    """Compare two models on some samples.

    Args:
        gains: the metric's differences on these samples.
        brier: the other model's Brier score minus the challenger's, ``float[N]``, of the same; None: not known.
        risk: chance that a challenger that is worse by more than a margin passes for one that is not, by the metric.
            Without a Brier score a fifth of it, since then one test bears it all.
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
    the simulated year the longest wait for a promotion falls by two nights, and no year does harm
    (docs/decisions/0028).
    """
    return min(0.5, _SUCCESSION * risk) / BRIER_RISK


def largest_loss(gains: PerSample, level: float) -> float:
    """By how much the challenger may be worse by the metric; it is worse than that with probability `level` at most.

    Holds for any number of samples and any level, however small; for macro-F1, which is no mean, for many samples. With
    no sample all may be lost.
    """
    if not len(gains.differences):
        return gains.bound
    return max(0.0, -betting.lower_bound(Differences.from_samples(gains.differences, gains.bound), level))
