"""The statistics against closed forms, published figures, and their own promises by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.gate import statistics
from ml.models import calibration

COUNTS = st.integers(0, 400)


@pytest.mark.parametrize(
    ("right", "samples", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_figures(right: int, samples: int, low: float, high: float) -> None:
    assert statistics.wilson(right, samples) == pytest.approx((low, high), abs=5e-5)


@given(right=COUNTS, wrong=COUNTS)
def test_wilson_holds_the_share_and_stays_a_share(right: int, wrong: int) -> None:
    low, high = statistics.wilson(right, right + wrong)
    assert 0 <= low <= high <= 1
    if right + wrong:
        assert low - 1e-9 <= right / (right + wrong) <= high + 1e-9


@given(better=COUNTS, worse=COUNTS, alike=COUNTS)
def test_a_comparison_is_consistent_whatever_the_cells(better: int, worse: int, alike: int) -> None:
    samples = better + worse + alike
    if not samples:
        return
    challenger = np.arange(samples) < better
    champion = (np.arange(samples) >= better) & (np.arange(samples) < better + worse)
    comparison = statistics.compare(champion, challenger, seed=0, rounds=50)
    assert (comparison.challenger_only_right, comparison.champion_only_right) == (better, worse)
    assert comparison.difference == pytest.approx(comparison.challenger_accuracy - comparison.champion_accuracy)
    assert 0 <= comparison.p_value <= 1
    assert -1 <= comparison.difference_interval[0] <= comparison.difference_interval[1] <= 1


def test_the_bootstrap_is_seeded_and_covers_the_truth_as_often_as_it_says() -> None:
    assert statistics.paired_bootstrap(30, 10, 300, 5, 2000) == statistics.paired_bootstrap(30, 10, 300, 5, 2000)
    generator, truth, covered = np.random.default_rng(3), 0.10 - 0.04, 0
    for better, worse, _ in generator.multinomial(400, [0.10, 0.04, 0.86], 1000):
        low, high = statistics.paired_bootstrap(better, worse, 400, 0, 1000)
        covered += low <= truth <= high
    assert 920 <= covered <= 980


def test_equal_challengers_pass_the_test_at_most_as_often_as_its_level_says() -> None:
    """Equal in worth and correlated, as a warm-started challenger is: they differ on few samples."""
    cells = np.random.default_rng(4).multinomial(500, [0.04, 0.04, 0.92], 2000)
    passed = sum(statistics.mcnemar(int(better), int(worse)) <= 0.05 for better, worse, _ in cells)
    assert passed <= 100 + 3 * 10  # 5 % and three standard deviations


def test_a_challenger_better_by_a_few_points_is_found_in_most_cases() -> None:
    cells = np.random.default_rng(5).multinomial(1000, [0.06, 0.02, 0.92], 200)
    assert sum(statistics.mcnemar(int(better), int(worse)) <= 0.05 for better, worse, _ in cells) > 190


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_rejects_no_more_than_uncorrected_and_no_less_than_bonferroni(p_values: list[float]) -> None:
    fallen = statistics.holm(p_values, 0.05)
    for p, f in zip(p_values, fallen, strict=True):
        assert not f or p <= 0.05
        assert f or p > 0.05 / len(p_values)


@pytest.mark.parametrize(("better", "worse", "p"), [(0, 0, 1.0), (5, 5, 0.623), (10, 0, 0.000977), (8, 2, 0.0547)])
def test_mcnemar_is_the_exact_binomial(better: int, worse: int, p: float) -> None:
    assert statistics.mcnemar(better, worse) == pytest.approx(p, rel=1e-2)


def test_holm_stops_at_the_first_that_stands() -> None:
    assert statistics.holm([0.001, 0.04, 0.03, 0.5], 0.05) == [True, False, False, False]


def confident(share: float, probability: float, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A model that is right in `share` of its answers and says `probability`."""
    right = np.random.default_rng(seed).random(samples) < share
    return np.full(samples, probability, np.float32), right


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    probability = np.asarray([0.95] * 4 + [0.55] * 4 + [1.0] * 2, np.float32)
    right = np.asarray([True] * 3 + [False] + [True, False] * 2 + [True] * 2)
    # Bin 0.9 to 1: 6 samples, 5 right, mean confidence (4 · 0.95 + 2) / 6; bin 0.5: 4 samples, 2 right.
    expected = 0.6 * abs(5 / 6 - 5.8 / 6) + 0.4 * 0.05
    assert calibration.error(probability, right, statistics.BINS) == pytest.approx(expected, abs=1e-6)
    bins = statistics.reliability(probability, right)
    assert [b["samples"] for b in bins] == [4, 6]
    assert bins[1]["accuracy"] == pytest.approx(5 / 6)
    assert calibration.error(probability[:0], right[:0], statistics.BINS) == 0


def test_a_rise_of_the_calibration_error_is_sure_only_where_it_is_large() -> None:
    honest, boastful = confident(0.8, 0.8, 500, 1), confident(0.8, 0.98, 500, 1)
    rise, least = statistics.calibration_rise(honest, boastful, seed=0)
    assert rise == pytest.approx(0.17, abs=0.04)
    assert 0.1 < least < rise
    rise, least = statistics.calibration_rise(honest, confident(0.8, 0.8, 500, 2), seed=0)
    assert least < 0.02
