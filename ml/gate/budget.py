"""The error budget of a holdout that is reused: how much earlier verdicts reveal, and the level left. Pure functions.

Guarantee: in any `WINDOW` consecutive decisions, the probability of one or more false statements about the holdout is
at most `alpha`, although all decisions use the same holdout and a challenger may depend on all verdicts before it.

Why it holds. Decision number k has a share of alpha, and the shares of `WINDOW` consecutive decisions sum to alpha.
A challenger depends on the holdout only through verdicts, so within a share a union bound over all sequences of
verdicts applies, each weighted by an adaptive code that learns the frequency of each verdict (Krichevsky and Trofimov,
IEEE Trans. Inf. Theory 27 (1981)): a verdict costs the information it reveals, about a quarter of a nat if one in
fifteen is a promotion, and almost nothing if none is (the description length bound of Dwork et al., Science 349 (2015);
Blum and Hardt, ICML 2015). A verdict other than a plain rejection is an event. Samples that arrived after an event do
not depend on earlier verdicts, so a statement on these samples alone counts only the sequences since, with a weight for
how many events ago that was. These weights sum to one, so the bound holds for any choice of subset that does not look
at the predictions on it.

Not covered: a person who reads reports and acts on them passes on more than verdicts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scipy.special import gammaln, ndtri

WINDOW: Final = 100
_PRIOR: Final = (0.5, 0.5, 0.125, 0.125)
"""Dirichlet parameters of the code, one for each of `holdout_comparisons.OUTCOMES`."""
_FRONT: Final = 0.95
"""Share of alpha that the first decisions of a window get, falling as 1/(k(k+1)); the rest is split evenly."""
_LEAST: Final = -690.0
"""Logarithm of the smallest level, slightly above the smallest float."""
POWER: Final = 0.8


@dataclass(frozen=True)
class HoldoutSubset:
    """A subset of the holdout for a statement: the samples that arrived after decision number `after`.

    `after` is the number of an event, or 0 for all samples; `verdicts` counts the decisions since, by outcome in
    the order of `ml.catalog.holdout_comparisons.OUTCOMES`.
    """

    after: int
    samples: int
    verdicts: tuple[int, ...]

    @property
    def looks(self) -> int:
        return sum(self.verdicts)

    @property
    def events(self) -> int:
        return self.looks - self.verdicts[0]


def even_share(alpha: float) -> float:
    """The share of alpha per decision if it is split evenly."""
    return alpha / WINDOW


def early_share(number: int, alpha: float) -> float:
    """The share of alpha of decision `number`, from 1, with larger early shares; any `WINDOW` sum to `alpha`."""
    k = (number - 1) % WINDOW + 1
    front = (WINDOW + 1) / WINDOW / (k * (k + 1))
    return alpha * (_FRONT * front + (1 - _FRONT) / WINDOW)


def level(share: float, part: HoldoutSubset) -> float:
    """The level at which a decision with this `share` can make a statement on the subset `part`."""
    weight = 0.5 if part.after == 0 else 0.5 / ((part.events + 1) * (part.events + 2))
    logarithm = math.log(share) + math.log(weight) + code_length(part.verdicts)
    return math.exp(max(logarithm, _LEAST))


def code_length(verdicts: Sequence[int]) -> float:
    """Log weight, 0 or less, of one verdict sequence with these counts; weights of a length sum to 1."""
    prior, total = sum(_PRIOR), sum(verdicts)
    each = sum(float(gammaln(a + n) - gammaln(a)) for a, n in zip(_PRIOR, verdicts, strict=True))
    return each - float(gammaln(prior + total) - gammaln(prior))


def choose(share: float, parts: Sequence[HoldoutSubset]) -> HoldoutSubset:
    """The subset with the smallest detectable difference."""
    return min(parts, key=lambda p: (detectable(level(share, p), p.samples, 1.0), p.after))


def detectable(at: float, samples: int, disagreement: float) -> float:
    """The improvement that a test at level `at` detects with probability `POWER`, as a share.

    Args:
        disagreement: share of samples that exactly one of the two models predicts correctly.
    """
    if not samples:
        return math.inf
    return float(_deviations(at) * math.sqrt(disagreement / samples))


def samples_needed(at: float, improvement: float, disagreement: float) -> int:
    """Number of samples for a test at level `at` to detect `improvement` with probability `POWER`."""
    return math.ceil((_deviations(at) / improvement) ** 2 * disagreement)


def fresh_needed(share: float, parts: Sequence[HoldoutSubset], improvement: float, disagreement: float) -> int:
    """New holdout samples needed for the next decision to detect `improvement`; 0 if none.

    Assumes that this decision is a plain rejection; new samples belong to every subset.

    Args:
        share: share of alpha of the next decision.
    """
    shortfalls = []
    for part in parts:
        next_subset = HoldoutSubset(part.after, part.samples, (part.verdicts[0] + 1, *part.verdicts[1:]))
        shortfalls.append(samples_needed(level(share, next_subset), improvement, disagreement) - part.samples)
    return max(0, min(shortfalls))


def _deviations(at: float) -> float:
    """The difference in standard deviations that a test at level `at` detects with probability `POWER`."""
    return float(ndtri(POWER) - ndtri(at))
