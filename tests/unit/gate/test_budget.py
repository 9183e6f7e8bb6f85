"""The promise of the budget, as arithmetic."""

import math

import pytest

from ml.gate import budget
from ml.gate.budget import WINDOW, Part


@pytest.mark.parametrize("first", [1, 2, 57, 100, 101])
def test_any_hundred_decisions_in_a_row_spend_exactly_alpha(first: int) -> None:
    assert math.fsum(budget.share(n, 0.05) for n in range(first, first + WINDOW)) == pytest.approx(0.05)


@pytest.mark.parametrize("looks", [0, 1, 2, 9, 60])
def test_the_levels_of_all_courses_before_a_decision_fit_into_its_share(looks: int) -> None:
    """Each course of `looks` verdicts, with `events` of two kinds that are no plain rejections, is one hypothesis."""
    courses = (
        (math.comb(looks, b) * 2**b, budget.level(looks + 1, Part(0, 9, looks, b), 0.05)) for b in range(looks + 1)
    )
    assert math.fsum(count * level for count, level in courses) <= budget.share(looks + 1, 0.05) * (1 + 1e-9)


def test_fresh_samples_are_preferred_once_the_past_costs_more_than_they_lack() -> None:
    old, few, many = Part(0, 4000, 30, 5), Part(9, 100, 0, 0), Part(9, 2000, 0, 0)
    assert budget.choose(31, [old, few], 0.05) == old
    assert budget.choose(31, [old, many], 0.05) == many


def test_nothing_can_be_seen_without_samples() -> None:
    assert budget.detectable(0.01, 0, 0.1) == math.inf
    assert budget.choose(1, [Part(0, 50, 0, 0), Part(3, 0, 0, 0)], 0.05).samples == 50


def test_samples_needed_is_the_inverse_of_what_can_be_seen() -> None:
    needed = budget.samples_needed(0.01, 0.02, 0.08)
    assert budget.detectable(0.01, needed, 0.08) <= 0.02 < budget.detectable(0.01, needed - 1, 0.08)
