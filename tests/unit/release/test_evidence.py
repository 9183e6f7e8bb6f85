"""The statistics of a trial: known values, what they promise under no harm, and that real harm is seen."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from ml.release import evidence

Z = evidence.quantile(0.05, 6)


def test_looks_double_and_end_where_they_should() -> None:
    assert evidence.planned_looks(1000) == [50, 100, 200, 400, 800, 1000]
    assert evidence.planned_looks(100) == [50, 100]


def test_the_level_is_shared_by_looks_and_measures() -> None:
    assert evidence.quantile(0.05, 1) == pytest.approx(2.3263, abs=1e-4)  # 0.01, one-sided
    assert pytest.approx(2.9352, abs=1e-4) == Z


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (3, 10), (10, 10), (17, 4000)])
def test_wilsons_interval_is_scipys(hits: int, count: int) -> None:
    known = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert evidence.wilson(hits, count, 1.959964) == pytest.approx((known.low, known.high), abs=1e-6)


def test_newcombes_example() -> None:
    """56 of 70 against 48 of 80: 0.0524 is the published lower bound of the 95 % interval (method 10)."""
    p, q = 56 / 70, 48 / 80
    lower, upper = evidence.wilson(56, 70, 1.96)[0], evidence.wilson(48, 80, 1.96)[1]
    assert p - q - math.hypot(p - lower, upper - q) == pytest.approx(0.0524, abs=1e-4)
    assert evidence.rate_increase("errors", (56, 70), (48, 80), 1.96).harm
    assert not evidence.rate_increase("errors", (56, 70), (48, 80), 2.9).harm


def test_a_harmless_candidate_is_hardly_ever_turned_down() -> None:
    rng = np.random.default_rng(0)
    planned = evidence.planned_looks(800)
    z = evidence.quantile(0.05, len(planned))
    turned_down = 0
    for _ in range(300):
        bad, live_bad = rng.random(800) < 0.03, rng.random(3200) < 0.03
        looks = [
            evidence.rate_increase("errors", (bad[:n].sum(), n), (live_bad[: 4 * n].sum(), 4 * n), z) for n in planned
        ]
        turned_down += any(look.harm for look in looks)
    assert turned_down <= 300 * 0.05


def test_harm_is_seen_and_nothing_is_seen_in_nothing() -> None:
    assert evidence.rate_increase("errors", (10, 50), (0, 400), Z).harm
    assert evidence.rate_increase("errors", (2, 1000), (0, 9000), Z).harm
    assert not evidence.rate_increase("errors", (1, 1000), (0, 9000), Z).harm
    assert not evidence.rate_increase("errors", (5, 50), (0, 0), Z).harm
    assert not evidence.rate_increase("errors", (0, 0), (0, 0), Z).harm
    assert evidence.rate_above("other labels", 40, 100, 0.2, Z).harm
    assert not evidence.rate_above("other labels", 22, 100, 0.2, Z).harm
    assert evidence.confidence_drop((200, 0.5, 0.04), (800, 0.9, 0.01), 0.1, Z).harm
    assert not evidence.confidence_drop((200, 0.85, 0.04), (800, 0.9, 0.01), 0.1, Z).harm
    assert not evidence.confidence_drop((1, 0.1, 0.0), (800, 0.9, 0.01), 0.1, Z).harm
    assert evidence.mean_above("latency", "", (100, 80.0, 70.0), math.log(1.5), Z).harm
    assert not evidence.mean_above("latency", "", (100, 30.0, 20.0), math.log(1.5), Z).harm
    assert evidence.latency_increase([16.0, 17.0], [10.0, 9.5], 1.5).harm
    assert not evidence.latency_increase([14.0, 17.0], [10.0, 9.5], 1.5).harm


def test_bounds_of_a_median_hold_it() -> None:
    rng = np.random.default_rng(1)
    low, high = evidence.median_quantiles(200, 1.96) or (0, 0)
    samples = np.sort(rng.exponential(size=(2000, 200)), axis=1)
    held = (samples[:, int(low * 200)] <= math.log(2)) & (samples[:, math.ceil(high * 200) - 1] >= math.log(2))
    assert held.mean() > 0.94
    assert evidence.median_quantiles(4, 2.9) is None
    assert evidence.median_quantiles(0, 2.9) is None


def test_disputed_answers() -> None:
    assert evidence.sign_test(18, 2, Z).harm
    assert not evidence.sign_test(12, 8, Z).harm
    assert not evidence.sign_test(0, 0, Z).harm
    assert not evidence.sign_test(0, 500, Z).harm
    assert evidence.sign_test(3000, 2000, Z).harm


def test_a_drop_in_confidence_by_hand() -> None:
    """0.9 - 0.7 - 2 sqrt(0.04 / 100 + 0.01 / 100) = 0.15528"""
    candidate, live = (100, 0.7, 0.04), (100, 0.9, 0.01)
    assert evidence.confidence_drop(candidate, live, 0.155, 2.0).harm
    assert not evidence.confidence_drop(candidate, live, 0.156, 2.0).harm
    assert not evidence.confidence_drop(live, candidate, 0.0, 2.0).harm
    assert not evidence.confidence_drop(candidate, (1, 0.9, 0.0), 0.1, 2.0).harm
    assert evidence.confidence_drop(
        (400, 0.7, 0.04), live, 0.171, 2.0
    ).harm  # 2 sqrt(0.04 / 400 + 0.01 / 100) = 0.02828
    assert not evidence.confidence_drop((400, 0.7, 0.04), live, 0.172, 2.0).harm


def test_a_mean_of_pairs_by_hand() -> None:
    """Of 1, 2, 3, 4: the mean is 2.5, the variance 5 / 3, and 2.5 - 2 sqrt(5 / 12) = 1.20901."""
    assert evidence.mean_above("latency", "", (4, 10.0, 30.0), 1.209, 2.0).harm
    assert not evidence.mean_above("latency", "", (4, 10.0, 30.0), 1.210, 2.0).harm
    for count in (0, 1):
        assert not evidence.mean_above("latency", "", (count, 9.0 * count, 81.0 * count), 0.0, 2.0).harm
    # Equal values whose squares were rounded down have no variance, not a negative one.
    assert evidence.mean_above("latency", "", (3, 3.0, 2.9999999999999996), 1 - 1e-9, 2.0).harm


def test_a_tolerated_rate_is_not_harm_at_its_bound() -> None:
    assert not evidence.rate_above("other labels", 0, 0, 0.0, Z).harm
    assert not evidence.rate_above("other labels", 0, 100, 0.0, Z).harm
    assert evidence.rate_above("other labels", 20, 100, 0.132, 2.0).harm  # Wilson's lower bound is 0.13225
    assert not evidence.rate_above("other labels", 20, 100, 0.133, 2.0).harm


def test_a_median_has_bounds_from_enough_answers_on() -> None:
    assert evidence.median_quantiles(100, 2.0) == pytest.approx((0.4, 0.6))
    assert evidence.median_quantiles(4, 2.0) is None
    assert evidence.median_quantiles(5, 2.0) is not None


def test_a_live_model_without_times_is_no_measure_of_latency() -> None:
    assert not evidence.latency_increase([5.0, 6.0], [0.0, 0.0], 1.5).harm
    assert not evidence.latency_increase([15.0, 16.0], [10.0, 9.0], 1.5).harm  # just tolerated


def test_the_sign_test_is_exact() -> None:
    """5 of 5 for the live model has probability 1 / 32; so has the normal quantile -1.86273."""
    assert evidence.sign_test(5, 0, 1.8627).harm
    assert not evidence.sign_test(5, 0, 1.8628).harm
    assert evidence.sign_test(6, 1, 1.5).harm  # 8 / 128 = 0.0625, and 0.0668 is the level
    assert not evidence.sign_test(6, 1, 1.54).harm  # 0.0618
