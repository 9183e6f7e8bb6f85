"""Statistical tests of a trial: whether the candidate is worse in errors, latency, confidence or accuracy.

Interim looks are planned after 50, 100, 200, … answers of the candidate, the last after `trial_answers`.
Each measure of each look is tested at alpha ÷ (looks × measures), so a harmless candidate is rejected with
probability at most `trial_alpha`, whatever the dependence between measures and looks (Bonferroni). Harm is
shown when a one-sided confidence bound exceeds the tolerance:

- shares (errors, accuracy of two groups, disagreement): Newcombe's hybrid score interval for a difference
  (Statistics in Medicine 17, 1998, method 10); Wilson's for a single one.
- confidence: the difference of means, with normal quantiles; of a shadow, the mean difference of pairs.
- latency: distribution-free bounds of both medians by order statistics; of a shadow, the mean log ratio of pairs.
- accuracy of a shadow: the exact sign test (McNemar) on disagreements with feedback.

Answers are assumed independent: a few clients sending similar images make the bounds too narrow.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

FIRST_LOOK: Final = 50
MEASURES: Final = 5


@dataclass(frozen=True)
class Finding:
    """The result of one measure: its description, and whether it shows harm; stored as JSON."""

    name: str
    words: str
    harm: bool


def planned_looks(answers: int) -> list[int]:
    """Numbers of answers at which interim looks are planned: 50, 100, 200, … and `answers`."""
    looks = []
    count = FIRST_LOOK
    while count < answers:
        looks.append(count)
        count *= 2
    return [*looks, answers]


def quantile(alpha: float, looks: int) -> float:
    """The normal quantile for each test of a trial with this number of looks."""
    return NormalDist().inv_cdf(1 - alpha / (looks * MEASURES))


def wilson(hits: float, count: float, z: float) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) of nothing."""
    if not count:
        return 0.0, 1.0
    share, square = hits / count, z * z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def rate_increase(name: str, candidate: tuple[float, float], live: tuple[float, float], z: float) -> Finding:
    """Test whether the candidate's rate of a bad outcome is higher. Each pair: count of bad, total."""
    (bad, total), (live_bad, live_total) = candidate, live
    shares = bad / total if total else 0.0, live_bad / live_total if live_total else 0.0
    lower, _ = wilson(bad, total, z)
    _, upper = wilson(live_bad, live_total, z)
    difference = shares[0] - shares[1]
    bound = difference - math.hypot(shares[0] - lower, upper - shares[1])
    harm = bool(total) and bool(live_total) and bound > 0
    words = f"{name} {shares[0]:.2%} of {total:.0f} against {shares[1]:.2%} of {live_total:.0f}"
    return Finding(name, words, harm)


def rate_above(name: str, hits: float, count: float, tolerated: float, z: float) -> Finding:
    """Test whether a rate is above the tolerance."""
    lower, _ = wilson(hits, count, z)
    share = hits / count if count else 0.0
    return Finding(
        name, f"{name} {share:.1%} of {count:.0f}, {tolerated:.0%} tolerated", bool(count) and lower > tolerated
    )


def confidence_drop(
    candidate: tuple[int, float, float], live: tuple[int, float, float], tolerated: float, z: float
) -> Finding:
    """Test whether mean confidence dropped by more than the tolerance. Each triple: count, mean, variance."""
    (n, mean, variance), (live_n, live_mean, live_variance) = candidate, live
    words = f"confidence {mean:.3f} against {live_mean:.3f}"
    if min(n, live_n) < 2:
        return Finding("confidence", words, harm=False)
    bound = live_mean - mean - z * math.sqrt(variance / n + live_variance / live_n)
    return Finding("confidence", words, bound > tolerated)


def mean_above(name: str, words: str, sums: tuple[float, float, float], tolerated: float, z: float) -> Finding:
    """Test whether the mean of paired differences is above the tolerance. `sums`: count, sum, sum of squares."""
    count, total, squares = sums
    if count < 2:
        return Finding(name, words, harm=False)
    mean = total / count
    variance = max(0.0, (squares - count * mean * mean) / (count - 1))
    return Finding(name, words, mean - z * math.sqrt(variance / count) > tolerated)


def median_quantiles(count: int, z: float) -> tuple[float, float] | None:
    """Sample quantiles that bound the population median from both sides; None for too few samples."""
    half = z / (2 * math.sqrt(count)) if count else 1.0
    return (0.5 - half, 0.5 + half) if half < 0.5 else None


def latency_increase(candidate: list[float], live: list[float], tolerated: float) -> Finding:
    """Test whether the candidate's median latency is more than `tolerated` times the live model's.

    Args:
        candidate: lower bound, median in milliseconds.
        live: upper bound, median.
    """
    words = f"median {candidate[1]:.1f} ms against {live[1]:.1f} ms"
    return Finding("latency", words, candidate[0] > tolerated * live[0] > 0)


def sign_test(live_right: int, candidate_right: int, z: float) -> Finding:
    """Test whether the candidate is wrong more often where both models differ (exact McNemar, one-sided)."""
    count = live_right + candidate_right
    tail = sum(math.comb(count, k) for k in range(live_right, count + 1)) / 2**count if count else 1.0
    words = (
        f"of {count} disputed answers with feedback the candidate had {candidate_right}, the live model {live_right}"
    )
    return Finding("accuracy", words, tail < NormalDist().cdf(-z))
