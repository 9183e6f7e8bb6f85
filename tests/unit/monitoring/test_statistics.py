"""Shift is seen where it is, and not where it is not."""

import numpy as np
import pytest

from ml.monitoring import statistics


def test_the_same_shares_have_no_shift() -> None:
    assert statistics.class_shift({"a": 0.5, "b": 0.5}, {"a": 50, "b": 50}) == pytest.approx(0)


def test_a_vanished_and_a_new_class_are_a_large_finite_shift() -> None:
    shift = statistics.class_shift({"a": 0.5, "b": 0.5}, {"a": 50, "c": 50})
    assert 1 < shift < 20


def test_confidences_from_the_same_distribution_do_not_shift_and_lower_ones_do() -> None:
    generator = np.random.default_rng(0)
    confidences = generator.beta(8, 2, 5000)
    deciles = [float(q) for q in np.quantile(confidences, np.arange(0.1, 1, 0.1))]
    assert statistics.confidence_shift(deciles, list(generator.beta(8, 2, 5000))) < 0.02
    assert statistics.confidence_shift(deciles, list(generator.beta(4, 4, 5000))) > 0.25


def test_saturated_confidences_are_one_bin() -> None:
    deciles = [0.9, 0.99, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    confidences = [0.5] * 10 + [0.95] * 10 + [1.0] * 80
    assert statistics.confidence_shift(deciles, confidences) < 0.05


@pytest.mark.parametrize(("classes", "answers"), [(2, 200), (10, 200), (100, 2000), (100, 20_000)])
def test_chance_alone_stays_below_the_noise(classes: int, answers: int) -> None:
    generator = np.random.default_rng(0)
    expected = {str(c): 1 / classes for c in range(classes)}
    shifts = [
        statistics.class_shift(expected, {str(c): int(n) for c, n in enumerate(generator.multinomial(answers, shares))})
        for shares in [[1 / classes] * classes] * 200
    ]
    assert sum(s > statistics.noise(classes, answers) for s in shifts) <= 4


def test_a_shift_stands_out_of_the_noise() -> None:
    assert statistics.class_shift({"a": 0.5, "b": 0.5}, {"a": 160, "b": 40}) > statistics.noise(2, 200)


def test_the_index_of_known_shares() -> None:
    """(0.8 - 0.5) ln(0.8 / 0.5) + (0.2 - 0.5) ln(0.2 / 0.5) = 0.1410 + 0.2749"""
    assert statistics.class_shift({"a": 0.5, "b": 0.5}, {"a": 160, "b": 40}) == pytest.approx(0.41589, abs=1e-5)
    assert statistics.population_stability([0.8, 0.2], [0.5, 0.5]) == pytest.approx(0.41589, abs=1e-5)


def test_an_empty_cell_counts_as_one_in_ten_thousand() -> None:
    """(1e-4 - 0.5) ln(1e-4 / 0.5) + (1 - 0.5) ln(1 / 0.5) = 4.2577 + 0.3466"""
    assert statistics.class_shift({"a": 0.5, "b": 0.5}, {"a": 10}) == pytest.approx(4.60431, abs=1e-5)
    assert statistics.class_shift({"a": 1.0}, {"a": 5, "new": 5}) == pytest.approx(
        (0.5 - 1) * np.log(0.5) + (0.5 - 1e-4) * np.log(0.5 / 1e-4)
    )


def test_the_noise_of_known_counts() -> None:
    """(degrees of freedom + 3 standard deviations of chi-squared) / count"""
    assert statistics.noise(2, 200) == pytest.approx((1 + 3 * 2**0.5) / 200)
    assert statistics.noise(9, 1000) == pytest.approx((8 + 3 * 4) / 1000)
    assert statistics.noise(1, 0) == statistics.noise(2, 1)


@pytest.mark.parametrize(
    ("deciles", "confidences", "expected"),
    [
        # Ten bins of a tenth each; all confidences in the first, nine bins empty.
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], [0.05] * 10, 0.9 * np.log(10) + 9 * 0.0999 * np.log(1000)),
        # A confidence at a decile is in the bin that ends there: bins of 0.5 and 0.5, shares 0.75 and 0.25.
        ([0.5] * 5 + [1.0] * 4, [0.4, 0.5, 0.5, 0.6], 0.25 * np.log(1.5) - 0.25 * np.log(0.5)),
        ([1.0] * 9, [0.1, 0.9], 0.0),
        ([], [0.1], 0.0),
        ([0.5] * 9, [], 0.0),
    ],
)
def test_the_shift_of_known_confidences(deciles: list[float], confidences: list[float], expected: float) -> None:
    assert statistics.confidence_shift(deciles, confidences) == pytest.approx(expected)
