"""What verdicts may have told of the holdout, and the level at which a decision can still be sure. Pure.

Promise: of any `WINDOW` consecutive decisions, the chance that even one states something of the holdout that is
false is at most `alpha`, although all of them consult the same holdout, and whatever each challenger
owes to the verdicts before it.

Why it holds. Decision number k has a share of alpha, and the shares of `WINDOW` consecutive decisions sum
to alpha. What a challenger can owe to the holdout went through verdicts, so within a share it is a union bound
over all courses of verdicts, each with the weight that a code gives it that learns how frequent each verdict is
(Krichevsky and Trofimov, IEEE Trans. Inf. Theory 27 (1981)): a verdict costs what it can tell, about a quarter of a
nat where one in fifteen is a promotion, and nearly nothing where none is (the description length bound of Dwork et
al., Science 349 (2015); Blum and Hardt, ICML 2015). A verdict that is no plain rejection is an event. Samples
that came after an event owe nothing to what was said until then, so a statement on these alone counts only
the courses since, with a weight for how many events ago that was. These weights sum to one, so the bound holds
whichever part is chosen, as long as the answers on it do not choose.

What it does not cover: a person who reads reports and acts on them passes on more than verdicts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scipy.special import gammaln, ndtri

WINDOW: Final = 100
_PRIOR: Final = (0.5, 0.5, 0.125, 0.125)
"""Of each of `holdout_comparisons.OUTCOMES`, in decisions: the parameters of the code's Dirichlet distribution."""
_FRONT: Final = 0.95
"""Share of alpha that the first decisions of a window get, falling as 1/(k(k+1)); the rest is dealt evenly."""
_LEAST: Final = -690.0
"""Logarithm of the smallest level: floats end a little below, and no sum of so little counts."""
POWER: Final = 0.8


@dataclass(frozen=True)
class HoldoutSubset:
    """Holdout samples that a statement could be made on: those that came after decision number `after`.

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
    """What each decision may spend where all are alike."""
    return alpha / WINDOW


def early_share(number: int, alpha: float) -> float:
    """What the decision of this number, from 1, may spend where the first count most; any `WINDOW` sum to `alpha`."""
    k = (number - 1) % WINDOW + 1
    front = (WINDOW + 1) / WINDOW / (k * (k + 1))
    return alpha * (_FRONT * front + (1 - _FRONT) / WINDOW)


def level(share: float, part: HoldoutSubset) -> float:
    """The level at which a decision that may spend `share` can make a statement on `part`."""
    weight = 0.5 if part.after == 0 else 0.5 / ((part.events + 1) * (part.events + 2))
    logarithm = math.log(share) + math.log(weight) + code_length(part.verdicts)
    return math.exp(max(logarithm, _LEAST))


def code_length(verdicts: Sequence[int]) -> float:
    """Logarithm of the weight of one course with these counts, 0 or less; all courses of a length sum to 1."""
    prior, total = sum(_PRIOR), sum(verdicts)
    each = sum(float(gammaln(a + n) - gammaln(a)) for a, n in zip(_PRIOR, verdicts, strict=True))
    return each - float(gammaln(prior + total) - gammaln(prior))


def choose(share: float, parts: Sequence[HoldoutSubset]) -> HoldoutSubset:
    """The part on which the smallest difference can be seen."""
    return min(parts, key=lambda p: (detectable(level(share, p), p.samples, 1.0), p.after))


def detectable(at: float, samples: int, disagreement: float) -> float:
    """The improvement that a test at level `at` sees with probability `POWER`, as a share.

    Args:
        disagreement: share of samples that exactly one of the two models gets right.
    """
    if not samples:
        return math.inf
    return float(_deviations(at) * math.sqrt(disagreement / samples))


def samples_needed(at: float, improvement: float, disagreement: float) -> int:
    """Holdout samples with which a test at level `at` sees `improvement` with probability `POWER`."""
    return math.ceil((_deviations(at) / improvement) ** 2 * disagreement)


def fresh_needed(share: float, parts: Sequence[HoldoutSubset], improvement: float, disagreement: float) -> int:
    """Holdout samples that must come until the next decision can see `improvement`; 0 if it can already.

    As if this decision becomes a plain rejection; new samples belong to every part.

    Args:
        share: of the next decision.
    """
    shortfalls = []
    for part in parts:
        next_subset = HoldoutSubset(part.after, part.samples, (part.verdicts[0] + 1, *part.verdicts[1:]))
        shortfalls.append(samples_needed(level(share, next_subset), improvement, disagreement) - part.samples)
    return max(0, min(shortfalls))


def _deviations(at: float) -> float:
    """By how many standard deviations of a difference a test at level `at` misses with probability 1 - `POWER`."""
    return float(ndtri(POWER) - ndtri(at))
