"""How often a holdout may decide: alpha spending over every course that the loop can take. Pure.

Promise: of any `WINDOW` consecutive decisions, the chance that even one promotes a challenger that is no
better is at most `alpha`, although all of them consult the same holdout, and whatever each challenger
owes to the verdicts before it.

Why it holds. Decision number k has its own share of alpha, and the shares of `WINDOW` consecutive
decisions sum to alpha. What a challenger can owe to the holdout went through verdicts, which are few: a row
of m verdicts with b that were not plain rejections is one of C(m, b)·2^b. A level of the share divided by that
number and weighted by `_PHASE` keeps the sum over all courses within the share (a union bound over the tree
of verdicts: the description length bound of Dwork et al., Science 349 (2015), with the counting of Blum and
Hardt's Ladder, ICML 2015; spending as Lan and DeMets, Biometrika 70 (1983), or Foster and Stine 2008).
Samples that came after a verdict owe it nothing, so a test on them alone counts only later verdicts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import norm

WINDOW: Final = 100
_FRONT: Final = 0.95
"""Share of alpha that the first decisions of a window get, falling as 1/(k(k+1)); the rest is dealt evenly."""
_PHASE: Final = 0.2
POWER: Final = 0.8


@dataclass(frozen=True)
class Part:
    """Holdout samples that could be tested on: those that came after decision number `after`.

    `looks` decisions were made since, of which `events` were not plain rejections.
    """

    after: int
    samples: int
    looks: int
    events: int


def share(number: int, alpha: float) -> float:
    """What the decision of this number, from 1, may spend; any `WINDOW` in a row sum to `alpha`."""
    k = (number - 1) % WINDOW + 1
    front = (WINDOW + 1) / WINDOW / (k * (k + 1))
    return alpha * (_FRONT * front + (1 - _FRONT) / WINDOW)


def level(number: int, part: Part, alpha: float) -> float:
    """The level at which the decision of this number tests on `part`."""
    if not part.looks:
        return share(number, alpha)
    weight = (1 - _PHASE) * _PHASE**part.events
    return float(share(number, alpha) * weight / (math.comb(part.looks, part.events) * 2**part.events))


def choose(number: int, parts: Sequence[Part], alpha: float) -> Part:
    """The part on which the smallest improvement can be seen.

    It looks at counts only, never at answers, so choosing costs nothing.
    """
    return min(parts, key=lambda p: (detectable(level(number, p, alpha), p.samples, 1.0), p.after))


def detectable(at: float, samples: int, disagreement: float) -> float:
    """The improvement that a test at level `at` sees with probability `POWER`, as a share.

    Args:
        disagreement: share of samples that exactly one of the two models gets right.
    """
    if not samples:
        return math.inf
    return float((norm.isf(at) + norm.isf(1 - POWER)) * math.sqrt(disagreement / samples))


def samples_needed(at: float, improvement: float, disagreement: float) -> int:
    """Holdout samples with which a test at level `at` sees `improvement` with probability `POWER`."""
    return int(np.ceil(((norm.isf(at) + norm.isf(1 - POWER)) / improvement) ** 2 * disagreement))
