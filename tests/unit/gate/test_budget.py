"""The promise of the budget, as arithmetic."""

import itertools
import math

import pytest

from ml.gate import budget
from ml.gate.budget import WINDOW, HoldoutSubset

FRESH = (0, 0, 0, 0)


@pytest.mark.parametrize("first", [1, 2, 57, 100, 101])
def test_any_hundred_decisions_in_a_row_spend_exactly_alpha(first: int) -> None:
    assert math.fsum(budget.early_share(n, 0.05) for n in range(first, first + WINDOW)) == pytest.approx(0.05)
    assert WINDOW * budget.even_share(0.05) == pytest.approx(0.05)


@pytest.mark.parametrize("length", [0, 1, 3, 8])
def test_the_weights_of_all_courses_of_a_length_sum_to_one(length: int) -> None:
    total = 0.0
    for verdicts in itertools.product(range(length + 1), repeat=4):
        if sum(verdicts) == length:
            courses = math.factorial(length) / math.prod(map(math.factorial, verdicts))
            total += courses * math.exp(budget.code_length(verdicts))
    assert total == pytest.approx(1)


def test_the_levels_of_all_parts_fit_into_a_decisions_share() -> None:
    """A part begins with an event, so which it is tells how many events came since; and there is the part of all."""
    since = [budget.level(0.01, HoldoutSubset(9, 99, (0, events, 0, 0))) for events in range(2000)]
    courses = [math.exp(budget.code_length((0, events, 0, 0))) for events in range(2000)]
    every = budget.level(0.01, HoldoutSubset(0, 99, FRESH))
    assert every + math.fsum(a / b for a, b in zip(since, courses, strict=True) if b > 1e-290) <= 0.01 * (1 + 1e-9)


def test_a_verdict_costs_what_it_can_tell() -> None:
    """Plain rejections hardly anything, promotions more, and the more so the rarer they are."""
    quiet, usual, wild = (budget.code_length(v) for v in ((100, 0, 0, 0), (93, 7, 0, 0), (50, 50, 0, 0)))
    assert -5 < quiet < -2
    assert -34 < usual < -24
    assert wild < -65


def test_fresh_samples_are_preferred_once_the_past_costs_more_than_they_lack() -> None:
    old, few, many = (
        HoldoutSubset(0, 4000, (25, 5, 0, 0)),
        HoldoutSubset(30, 100, FRESH),
        HoldoutSubset(30, 3000, FRESH),
    )
    assert budget.choose(0.001, [old, few]) == old
    assert budget.choose(0.001, [old, many]) == many


def test_nothing_can_be_seen_without_samples() -> None:
    assert budget.detectable(0.01, 0, 0.1) == math.inf
    assert budget.choose(0.001, [HoldoutSubset(0, 50, (2, 1, 0, 0)), HoldoutSubset(3, 0, FRESH)]).samples == 50


def test_a_holdout_that_was_used_for_many_years_sees_hardly_anything_and_says_so() -> None:
    worn = HoldoutSubset(0, 5000, (1500, 1500, 0, 0))
    level = budget.level(0.0005, worn)
    assert 0 < level < 1e-200
    assert 0.1 < budget.detectable(level, 5000, 0.1) < 1
    assert budget.fresh_needed(0.0005, [worn], 0.02, 0.1) > 100_000


def test_samples_needed_is_the_inverse_of_what_can_be_seen() -> None:
    needed = budget.samples_needed(0.01, 0.02, 0.08)
    assert budget.detectable(0.01, needed, 0.08) <= 0.02 < budget.detectable(0.01, needed - 1, 0.08)


def test_fresh_samples_are_asked_for_where_the_next_decision_could_not_see_enough() -> None:
    part = HoldoutSubset(0, 1000, (1, 0, 0, 0))
    lacking = budget.fresh_needed(0.001, [part], 0.02, 0.08)
    more = HoldoutSubset(0, 1000 + lacking, (2, 0, 0, 0))
    assert lacking > 0
    assert budget.detectable(budget.level(0.001, more), more.samples, 0.08) <= 0.02
    assert budget.fresh_needed(0.001, [HoldoutSubset(0, 10**6, (1, 0, 0, 0))], 0.02, 0.08) == 0
