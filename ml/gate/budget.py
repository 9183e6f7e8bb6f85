"""How often a holdout may decide: alpha spending over every course that the loop can take. Pure.

Promise: of any `WINDOW` consecutive decisions, the chance that even one promotes a challenger that is no
better is at most `alpha`, although all of them consult the same holdout, and whatever each challenger
owes to the verdicts before it.

Why it holds. Decision number k has a share of alpha, and the shares of `WINDOW` consecutive decisions sum
to alpha (spending as Lan and DeMets, Biometrika 70 (1983)). What a challenger can owe to the holdout went
through verdicts, which are few, so within a share it is a union bound over all courses of verdicts, the more
unlikely ones with less weight (the description length bound of Dwork et al., Science 349 (2015), with the
counting of Blum and Hardt's Ladder, ICML 2015). A verdict that is no plain rejection is an event. Samples
that came after the i-th event owe nothing to what was said until then, so a test on these alone counts only
the courses since; that event's time is a stopping time, so one weight for each (i, events since) bounds
the sum, whatever rule chooses between the parts.

What it does not cover: a person who reads reports and acts on them passes on more than verdicts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scipy.special import ndtri

WINDOW: Final = 100
KINDS: Final = 3
"""What an event can be: promoted; waits for a person who then says yes, or no."""
_FRONT: Final = 0.95
"""Share of alpha that the first decisions of a window get, falling as 1/(k(k+1)); the rest is dealt evenly."""
_QUIET: Final = 0.7
"""Weight of the courses without any event; those with e events have the rest, falling as 1/(e(e+1))."""
_SINCE: Final = 0.2
"""How much less each event since a part's beginning weighs."""
_LEAST: Final = -690.0
"""Logarithm of the smallest level: floats end a little below, and no sum of so little counts."""
POWER: Final = 0.8


@dataclass(frozen=True)
class Part:
    """Holdout samples that a test could be made on: those that came after decision number `after`.

    `after` was the event number `begun`, both 0 for all samples; `looks` decisions were made since, of which
    `events` were not plain rejections.
    """

    after: int
    begun: int
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
    courses = math.comb(part.looks, part.events) * KINDS**part.events
    logarithm = math.log(share(number, alpha)) + _log_weight(number, part.begun, part.events) - math.log(courses)
    return math.exp(max(logarithm, _LEAST))


def _log_weight(number: int, begun: int, since: int) -> float:
    """Of decision `number`: the part of its share for all courses in which `since` events follow event `begun`.

    Sums, as a share, to 1 over all pairs that there can be.
    """
    events = begun + since
    by_events = _QUIET if events == 0 else (1 - _QUIET) / (events * (events + 1))
    total = 1 - (1 - _QUIET) / number
    spread = (1 - _SINCE) / (1 - math.pow(_SINCE, events + 1))
    return math.log(by_events / total * spread) + since * math.log(_SINCE)


def choose(number: int, parts: Sequence[Part], alpha: float) -> Part:
    """The part on which the smallest improvement can be seen."""
    return min(parts, key=lambda p: (detectable(level(number, p, alpha), p.samples, 1.0), p.after))


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


def fresh_needed(number: int, parts: Sequence[Part], alpha: float, improvement: float, disagreement: float) -> int:
    """Holdout samples that must come until the decision after this one can see `improvement`; 0 if it can already.

    As if this decision becomes a plain rejection; new samples belong to every part.
    """
    after = number + 1
    lacking = []
    for part in parts:
        then = Part(part.after, part.begun, part.samples, part.looks + 1, part.events)
        lacking.append(samples_needed(level(after, then, alpha), improvement, disagreement) - part.samples)
    return max(0, min(lacking))


def _deviations(at: float) -> float:
    """By how many standard deviations of a difference a test at level `at` misses with probability 1 - `POWER`."""
    return float(ndtri(POWER) - ndtri(at))
