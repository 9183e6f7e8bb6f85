"""The promise of the budget, as arithmetic."""

import math

import pytest

from ml.gate import budget
from ml.gate.budget import WINDOW, Part


@pytest.mark.parametrize("first", [1, 2, 57, 100, 101])
def test_any_hundred_decisions_in_a_row_spend_exactly_alpha(first: int) -> None:
    assert math.fsum(budget.share(n, 0.05) for n in range(first, first + WINDOW)) == pytest.approx(0.05)


@pytest.mark.parametrize("number", [1, 2, 3, 10, 61])
def test_the_levels_of_all_courses_before_a_decision_fit_into_its_share(number: int) -> None:
    """Each course of verdicts since a part's beginning is one hypothesis; parts begin with events.

    For the part of event number i the worst case is the earliest one: decision i.
    """
    total = 0.0
    for begun in range(number):
        looks = number - 1 - begun
        for b in range(looks + 1):
            part = Part(begun, begun, 9, looks, b)
            total += math.comb(looks, b) * budget.KINDS**b * budget.level(number, part, 0.05)
    assert total == pytest.approx(budget.share(number, 0.05))


def test_the_first_decision_has_its_whole_share() -> None:
    assert budget.level(1, Part(0, 0, 9, 0, 0), 0.05) == pytest.approx(budget.share(1, 0.05))
    assert budget.share(1, 0.05) == pytest.approx(0.05 * 0.48025)


def test_fresh_samples_are_preferred_once_the_past_costs_more_than_they_lack() -> None:
    old, few, many = Part(0, 0, 4000, 30, 5), Part(30, 5, 100, 0, 0), Part(30, 5, 2000, 0, 0)
    assert budget.choose(31, [old, few], 0.05) == old
    assert budget.choose(31, [old, many], 0.05) == many


def test_nothing_can_be_seen_without_samples() -> None:
    assert budget.detectable(0.01, 0, 0.1) == math.inf
    assert budget.choose(4, [Part(0, 0, 50, 3, 1), Part(3, 1, 0, 0, 0)], 0.05).samples == 50


def test_a_holdout_that_was_used_for_many_years_sees_hardly_anything_and_says_so() -> None:
    worn = Part(0, 0, 5000, 3000, 1500)
    assert 0 < budget.level(3001, worn, 0.05) < 1e-200
    assert 0.1 < budget.detectable(budget.level(3001, worn, 0.05), 5000, 0.1) < 1
    assert budget.fresh_needed(3001, [worn], 0.05, 0.02, 0.1) > 100_000


def test_samples_needed_is_the_inverse_of_what_can_be_seen() -> None:
    needed = budget.samples_needed(0.01, 0.02, 0.08)
    assert budget.detectable(0.01, needed, 0.08) <= 0.02 < budget.detectable(0.01, needed - 1, 0.08)


def test_fresh_samples_are_asked_for_where_the_next_decision_could_not_see_enough() -> None:
    part = Part(0, 0, 1000, 1, 0)
    lacking = budget.fresh_needed(2, [part], 0.05, 0.02, 0.08)
    more = Part(0, 0, 1000 + lacking, 2, 0)
    assert lacking > 0
    assert budget.detectable(budget.level(3, more, 0.05), more.samples, 0.08) <= 0.02
    assert budget.fresh_needed(2, [Part(0, 0, 10**6, 1, 0)], 0.05, 0.02, 0.08) == 0
