"""What is said of a mean holds as often as promised, whatever the differences look like."""

import math

import numpy as np
import pytest

from ml.gate import betting
from ml.gate.betting import Differences


def counts(worse: int, better: int, alike: int) -> Differences:
    return Differences(np.asarray([-1.0, 0.0, 1.0]), np.asarray([worse, alike, better]), 1.0)


def test_differences_are_counted_and_their_bound_holds() -> None:
    of = Differences.from_samples(np.asarray([0.5, -1.5, 0.5, 0.0]), 1.0)
    assert (of.values.tolist(), of.counts.tolist(), of.bound) == ([-1.5, 0.0, 0.5], [1, 1, 2], 1.5)
    assert (of.samples, of.mean) == (4, pytest.approx(-0.125))
    assert of.negated.mean == -of.mean


@pytest.mark.parametrize("level", [0.05, 5e-4, 1e-9, 1e-60])
@pytest.mark.parametrize("samples", [3, 60, 3000])
def test_the_bound_for_any_level_is_where_the_p_value_is_the_level(level: float, samples: int) -> None:
    of = counts(samples // 3, samples // 2, samples - samples // 3 - samples // 2)
    bound = betting.lower_bound(of, level)
    assert -1 <= bound < of.mean
    assert betting.p_value(of, bound - 1e-3, level) < level or bound == -1
    assert betting.p_value(of, bound + 1e-3, level) > level
    assert bound < betting.lower_bound(of, 0.3) < of.mean


def test_the_p_value_is_seldom_small_where_the_mean_is_what_is_tested() -> None:
    """Markov's inequality on wealth, for skewed differences and few of them, too."""
    generator = np.random.default_rng(3)
    for samples, chances in ((20, (0.02, 0.0)), (200, (0.04, 0.03)), (2000, (0.1, 0.09))):
        drawn = generator.multinomial(samples, [*chances, 1 - sum(chances)], 2000)
        small = [
            betting.p_value(counts(worse, better, alike), chances[1] - chances[0], 0.05) <= 0.05
            for worse, better, alike in drawn
        ]
        assert np.mean(small) <= 0.05


def test_the_score_is_a_standard_normal_where_the_mean_is_what_is_tested() -> None:
    generator = np.random.default_rng(4)
    for samples in (200, 2000):
        drawn = generator.multinomial(samples, [0.038, 0.028, 0.934], 4000)
        scores = np.asarray([betting.score(counts(worse, better, alike), -0.01) for worse, better, alike in drawn])
        assert (scores > 1.645).mean() == pytest.approx(0.05, abs=0.012)
        assert (scores > 2.326).mean() == pytest.approx(0.01, abs=0.006)
        assert (scores < -1.645).mean() == pytest.approx(0.05, abs=0.012)


def test_the_usual_bound_is_the_mean_less_so_many_standard_errors_for_many_samples() -> None:
    values = np.random.default_rng(5).normal(0.01, 0.2, 20_000)
    of = Differences.from_samples(values)
    assert betting.usual_bound(of, 2.0) == pytest.approx(values.mean() - 2 * values.std() / math.sqrt(20_000), abs=1e-4)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_answers_that_are_all_alike_have_bounds_too(value: float) -> None:
    of = Differences.from_samples(np.full(40, value))
    for bound in (betting.usual_bound(of, 2.0), betting.lower_bound(of, 0.01)):
        assert -1 <= bound <= value
    assert betting.score(of, value) == 0
