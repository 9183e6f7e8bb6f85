"""What a trial shows: harm, or none, in errors, latency, confidence and accuracy.

Looks are planned: after 50, 100, 200, … answers of the candidate, the last after as many as the setting
`trial_answers` says. Each measure of each look is tested at alpha ÷ (looks × measures), so that a
candidate that harms nothing is turned down with a chance of at most `trial_alpha`, however the measures and the
looks depend on each other (Bonferroni). Harm is shown when a one-sided confidence bound lies beyond what is tolerated:

- shares (errors, accuracy of two groups, disagreement): Newcombe's hybrid score interval for a difference
  (Statistics in Medicine 17, 1998, method 10); Wilson's for a single one.
- confidence: the difference of means, with normal quantiles; of a shadow that of pairs.
- latency: distribution-free bounds of both medians by order statistics; of a shadow the mean log ratio of pairs.
- accuracy of a shadow: the exact sign test (McNemar) on disagreements that feedback settled.

Answers are taken as independent: a few clients who send much alike make the bounds too narrow.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

FIRST_LOOK: Final = 50
MEASURES: Final = 5


@dataclass(frozen=True)
class Finding:
    """One measure: what it says in words, and whether it shows harm."""

    name: str
    words: str
    harm: bool


def planned(answers: int) -> list[int]:
    """Answers of the candidate at which to look: 50, 100, 200, … and `answers`."""
    looks = []
    at = FIRST_LOOK
    while at < answers:
        looks.append(at)
        at *= 2
    return [*looks, answers]


def quantile(alpha: float, looks: int) -> float:
    """The normal quantile of each test of a trial with so many looks."""
    return NormalDist().inv_cdf(1 - alpha / (looks * MEASURES))


def wilson(hits: float, count: float, z: float) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) of nothing."""
    if not count:
        return 0.0, 1.0
    share, square = hits / count, z * z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def excess(name: str, candidate: tuple[float, float], live: tuple[float, float], z: float) -> Finding:
    """Whether the candidate's share of something bad is higher. Each pair: how often, of how many."""
    (bad, asked), (live_bad, live_asked) = candidate, live
    shares = bad / asked if asked else 0.0, live_bad / live_asked if live_asked else 0.0
    lower, _ = wilson(bad, asked, z)
    _, upper = wilson(live_bad, live_asked, z)
    difference = shares[0] - shares[1]
    bound = difference - math.hypot(shares[0] - lower, upper - shares[1])
    harm = bool(asked) and bool(live_asked) and bound > 0
    words = f"{name} {shares[0]:.2%} of {asked:.0f} against {shares[1]:.2%} of {live_asked:.0f}"
    return Finding(name, words, harm)


def at_most(name: str, hits: float, count: float, tolerated: float, z: float) -> Finding:
    """Whether a share is above what is tolerated."""
    lower, _ = wilson(hits, count, z)
    share = hits / count if count else 0.0
    return Finding(
        name, f"{name} {share:.1%} of {count:.0f}, {tolerated:.0%} tolerated", bool(count) and lower > tolerated
    )


def drop(candidate: tuple[int, float, float], live: tuple[int, float, float], tolerated: float, z: float) -> Finding:
    """Whether mean confidence fell further than is tolerated. Each triple: count, mean, variance."""
    (n, mean, variance), (live_n, live_mean, live_variance) = candidate, live
    words = f"confidence {mean:.3f} against {live_mean:.3f}"
    if min(n, live_n) < 2:
        return Finding("confidence", words, harm=False)
    bound = live_mean - mean - z * math.sqrt(variance / n + live_variance / live_n)
    return Finding("confidence", words, bound > tolerated)


def mean_above(name: str, words: str, sums: tuple[float, float, float], tolerated: float, z: float) -> Finding:
    """Whether the mean of paired differences is above what is tolerated. `sums`: count, sum, sum of squares."""
    count, total, squares = sums
    if count < 2:
        return Finding(name, words, harm=False)
    mean = total / count
    variance = max(0.0, (squares - count * mean * mean) / (count - 1))
    return Finding(name, words, mean - z * math.sqrt(variance / count) > tolerated)


def median_shares(count: int, z: float) -> tuple[float, float] | None:
    """Quantiles of a sample that bound its population's median from both sides; None for too few."""
    half = z / (2 * math.sqrt(count)) if count else 1.0
    return (0.5 - half, 0.5 + half) if half < 0.5 else None


def slower(candidate: list[float], live: list[float], tolerated: float) -> Finding:
    """Whether the candidate's median latency is more than `tolerated` times the live model's.

    Args:
        candidate: lower bound, median in milliseconds.
        live: upper bound, median.
    """
    words = f"median {candidate[1]:.1f} ms against {live[1]:.1f} ms"
    return Finding("latency", words, candidate[0] > tolerated * live[0] > 0)


def sign_test(live_right: int, candidate_right: int, z: float) -> Finding:
    """Whether the candidate is wrong more often where the two differ (exact McNemar, one-sided)."""
    count = live_right + candidate_right
    tail = sum(math.comb(count, k) for k in range(live_right, count + 1)) / 2**count if count else 1.0
    words = (
        f"of {count} disputed answers with feedback the candidate had {candidate_right}, the live model {live_right}"
    )
    return Finding("accuracy", words, tail < NormalDist().cdf(-z))
