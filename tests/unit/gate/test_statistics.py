"""The statistics against closed forms, published figures, and their own promises by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.gate import policy, statistics
from ml.gate.policy import Policy

RULES = Policy(alpha=0.05, min_holdout=30)
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
    found = statistics.compare(champion, challenger, seed=0, rounds=50)
    assert (found.challenger_only_right, found.champion_only_right) == (better, worse)
    assert found.difference == pytest.approx(found.challenger_accuracy - found.champion_accuracy)
    assert 0 <= found.p_value <= 1
    assert -1 <= found.difference_interval[0] <= found.difference_interval[1] <= 1


def test_the_bootstrap_is_seeded_and_covers_the_truth_as_often_as_it_says() -> None:
    assert statistics.paired_bootstrap(30, 10, 300, 5, 2000) == statistics.paired_bootstrap(30, 10, 300, 5, 2000)
    generator, truth, covered = np.random.default_rng(3), 0.10 - 0.04, 0
    for better, worse, _ in generator.multinomial(400, [0.10, 0.04, 0.86], 1000):
        low, high = statistics.paired_bootstrap(better, worse, 400, 0, 1000)
        covered += low <= truth <= high
    assert 920 <= covered <= 980


def test_two_thousand_equal_challengers_are_promoted_at_most_as_often_as_stated() -> None:
    """Equal in worth and correlated, as a warm-started challenger is: they differ on few samples."""
    generator, promoted = np.random.default_rng(4), 0
    for better, worse, right, _ in generator.multinomial(500, [0.04, 0.04, 0.85, 0.07], 2000):
        champion = np.repeat([False, True, True, False], [better, worse, right, 500 - better - worse - right])
        challenger = np.repeat([True, False, True, False], [better, worse, right, 500 - better - worse - right])
        comparison = statistics.compare(champion, challenger, seed=0, rounds=2)
        promoted += policy.against_champion(comparison, [], RULES).verdict == "promote"
    assert promoted <= 100 + 3 * 10  # 5 % and three standard deviations


def test_a_challenger_better_by_a_few_points_is_found_in_most_cases() -> None:
    generator, promoted = np.random.default_rng(5), 0
    for better, worse, _ in generator.multinomial(1000, [0.06, 0.02, 0.92], 200):
        champion = np.repeat([False, True, True], [better, worse, 1000 - better - worse])
        challenger = np.repeat([True, False, True], [better, worse, 1000 - better - worse])
        promoted += statistics.compare(champion, challenger, seed=0, rounds=2).p_value < RULES.alpha
    assert promoted > 190


def test_equal_models_are_seldom_said_to_harm_a_class() -> None:
    """Ten classes are looked at, and still it is one promise: Holm's correction."""
    generator, alarms = np.random.default_rng(6), 0
    labels = np.repeat(np.arange(10), 40)
    for _ in range(300):
        champion, challenger = generator.random((2, 400)) < 0.85
        alarms += bool(policy.harmed_classes(champion, challenger, labels, "0123456789", RULES.alpha))
    assert alarms <= 15 + 3 * 4


def test_a_small_harm_that_is_significant_is_tolerated_and_a_large_one_that_is_not_too() -> None:
    many = np.zeros(2000, np.int64)
    slightly = np.arange(2000) >= 60  # 3 points, far beyond chance
    assert policy.harmed_classes(np.full(2000, True), slightly, many, ["a"], 0.05) == []
    few = np.zeros(10, np.int64)
    hardly = np.arange(10) >= 3  # 30 points, three samples
    assert policy.harmed_classes(np.full(10, True), hardly, few, ["a"], 0.05) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_rejects_no_more_than_uncorrected_and_no_less_than_bonferroni(p_values: list[float]) -> None:
    fallen = statistics.holm(p_values, 0.05)
    for p, f in zip(p_values, fallen, strict=True):
        assert not f or p <= 0.05
        assert f or p > 0.05 / len(p_values)


def test_the_words_tell_the_figures() -> None:
    champion = np.repeat([False, True, True, False], [61, 9, 600, 30])
    challenger = np.repeat([True, False, True, False], [61, 9, 600, 30])
    words = policy.against_champion(statistics.compare(champion, challenger, seed=0), [], RULES).reason
    assert words == "94.4% against 87.0% on 700 holdout samples: 61 gained, 9 lost, p < 0.0001"
