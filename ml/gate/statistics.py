"""The statistics of a decision: pure functions of right and wrong predictions.

Sources: Wilson, J. Am. Stat. Assoc. 22 (1927); McNemar, Psychometrika 12 (1947), exact form; Efron,
Ann. Stat. 7 (1979) for the bootstrap; Holm, Scand. J. Stat. 6 (1979); Guo et al., ICML 2017, for the
expected calibration error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from ml.models import calibration

Right = NDArray[np.bool_]
BINS: Final = 10
"""Number of confidence bins of equal width."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same samples; accuracies and differences are shares, `p_value` one-sided."""

    samples: int
    champion_accuracy: float
    challenger_accuracy: float
    challenger_only_right: int
    champion_only_right: int
    p_value: float
    difference: float
    difference_interval: tuple[float, float]


def wilson(right: int, samples: int, alpha: float = 0.05) -> tuple[float, float]:
    """The Wilson score interval of a share; (0, 1) for no samples."""
    if samples == 0:
        return 0.0, 1.0
    interval = binomtest(right, samples).proportion_ci(1 - alpha, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(better: int, worse: int) -> float:
    """p-value of the one-sided exact McNemar test on the discordant pairs."""
    return float(binomtest(better, better + worse, alternative="greater").pvalue) if better + worse else 1.0


def compare(champion: Right, challenger: Right, seed: int, rounds: int = 10_000) -> Comparison:
    """Compare two models' results on the same samples, in the same order."""
    better, worse = int((challenger & ~champion).sum()), int((champion & ~challenger).sum())
    n = len(champion)
    return Comparison(
        samples=n,
        champion_accuracy=float(champion.mean()),
        challenger_accuracy=float(challenger.mean()),
        challenger_only_right=better,
        champion_only_right=worse,
        p_value=mcnemar(better, worse),
        difference=(better - worse) / n,
        difference_interval=paired_bootstrap(better, worse, n, seed, rounds),
    )


def paired_bootstrap(better: int, worse: int, samples: int, seed: int, rounds: int) -> tuple[float, float]:
    """95 % percentile interval of the accuracy difference, resampling whole pairs.

    Pairs fall into three cells (challenger only right, champion only right, alike), so a resample of
    them is one multinomial draw.
    """
    shares = [better / samples, worse / samples, 1 - (better + worse) / samples]
    resamples = np.random.default_rng(seed).multinomial(samples, shares, rounds)
    low, high = np.quantile((resamples[:, 0] - resamples[:, 1]) / samples, [0.025, 0.975])
    return float(low), float(high)


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses are rejected by Holm's procedure at a family-wise error rate of `alpha`."""
    order = np.argsort(p_values)
    fallen = [False] * len(p_values)
    for rank, position in enumerate(order):
        if p_values[position] > alpha / (len(p_values) - rank):
            break
        fallen[position] = True
    return fallen


def reliability(probability: NDArray[np.float32], right: Right) -> list[dict[str, float]]:
    """The reliability diagram: a row per non-empty bin of equal width.

    Args:
        probability: of the predicted class, ``float32[N]``.
        right: whether the prediction is right, ``bool[N]``.
    """
    bin_index = np.minimum((probability * BINS).astype(int), BINS - 1)
    return [
        {
            "samples": int((bin_index == b).sum()),
            "confidence": float(probability[bin_index == b].mean()),
            "accuracy": float(right[bin_index == b].mean()),
        }
        for b in np.unique(bin_index)
    ]


def calibration_rise(
    champion: tuple[NDArray[np.float32], Right],
    challenger: tuple[NDArray[np.float32], Right],
    seed: int,
    rounds: int = 200,
) -> tuple[float, float]:
    """Increase of the calibration error over the champion, and its 5 % quantile by a paired bootstrap."""
    generator, n = np.random.default_rng(seed), len(champion[1])
    observed = calibration.error(*challenger, BINS) - calibration.error(*champion, BINS)
    differences = []
    for _ in range(rounds):
        i = generator.integers(0, n, n)
        after, before = (calibration.error(p[i], r[i], BINS) for p, r in (challenger, champion))
        differences.append(after - before)
    return observed, float(np.quantile(differences, 0.05))
