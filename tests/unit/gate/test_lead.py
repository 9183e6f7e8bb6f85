"""How far ahead, and at worst how far behind."""

import numpy as np
import pytest

from ml.gate.lead import Lead, largest_loss, lead
from ml.gate.metrics import PerSample
from tests.unit.gate.figures import differences, pair

ALIKE = pair(100, 100, 1500, 300)


def test_who_is_ahead_is_told_by_the_metric_and_if_that_is_even_by_the_brier_score() -> None:
    assert Lead(9, 0.01, -1, None, None).ahead
    assert not Lead(9, -0.01, -1, 0.5, 0.4).ahead
    assert Lead(9, 0.0, -1, 0.1, -1).ahead
    assert not Lead(9, 0.0, -1, 0.0, -1).ahead
    assert not Lead(9, 0.0, -1, None, None).ahead


def test_neither_the_metric_nor_the_brier_score_may_be_worse_by_more_than_the_margin() -> None:
    assert Lead(9, 0, -0.009, 0, -0.009).holds(0.01)
    assert not Lead(9, 0, -0.011, 0, -0.009).holds(0.01)
    assert not Lead(9, 0, -0.009, 0, -0.011).holds(0.01)
    assert Lead(9, 0, -0.009, None, None).holds(0.01)


def test_brier_scores_show_with_the_same_samples_what_answers_leave_open() -> None:
    of = differences(*ALIKE)
    worse = np.random.default_rng(0).normal(-0.02, 0.15, len(of.counted))
    estimate = lead(of, worse, 0.05)
    assert estimate.metric == 0
    assert estimate.brier is not None
    assert estimate.brier_least is not None
    assert estimate.brier_least == pytest.approx(estimate.brier - 2.33 * 0.15 / np.sqrt(2000), abs=1e-3)
    assert estimate.metric_least == pytest.approx(-1.645 * np.sqrt(0.1 / 2000), abs=1e-3)
    alone = lead(of, None, 0.05)
    assert alone.metric_least == pytest.approx(-2.326 * np.sqrt(0.1 / 2000), abs=1e-3), "one test bears it all"


def test_without_samples_nothing_is_known() -> None:
    nothing = differences(*pair(0, 0, 0))
    estimate = lead(nothing, np.empty(0), 0.05)
    assert (estimate.samples, estimate.holds(0.01), estimate.ahead) == (0, True, False)
    assert largest_loss(nothing, 0.01) == 1, "all may be lost"


def test_brier_scores_are_weighted_as_the_metric_is() -> None:
    weights = np.repeat([0.5, 4.0], [70, 10])
    of = PerSample(np.repeat([True, False], [80, 20]), np.zeros(80), 1.0, weights)
    brier = np.repeat([0.1, -0.2, 9.0], [70, 10, 20])
    assert lead(of, brier, 0.05).brier == pytest.approx((70 * 0.05 - 10 * 0.8) / 80)


def test_the_largest_loss_grows_as_the_level_falls_and_shrinks_with_samples() -> None:
    of = differences(*ALIKE)
    wide, narrow = (largest_loss(of, level) for level in (1e-20, 1e-3))
    assert 0.005 < narrow < wide < 0.2
    more = differences(*pair(1000, 1000, 15000, 3000))
    assert largest_loss(more, 1e-3) == pytest.approx(narrow / np.sqrt(10), rel=0.15)
