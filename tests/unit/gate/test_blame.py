"""Drops whose labels contradict the holdout are found, whatever their size, and clean ones are not accused."""

from typing import Any

import numpy as np
import pytest

from ml.gate import blame
from ml.gate.blame import STANDS_OUT

CLASSES, SIDE = 5, 8


def world(
    seed: int, sizes: list[int], poisoned: int | None = None, kind: str = "class"
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours, given labels, drops and the holdout's labels: five overlapping classes as clouds of features."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, SIDE)).astype(np.float32) * 1.5

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, CLASSES, count)
        return (centres[labels] + rng.normal(size=(count, SIDE))).astype(np.float32), labels

    features, given = drawn(sum(sizes))
    drop_of = np.repeat(np.arange(len(sizes)), sizes)
    if poisoned is not None:
        own = np.flatnonzero(drop_of == poisoned)
        wrong = own[given[own] == 1] if kind == "class" else own[rng.random(len(own)) < 0.3]
        given[wrong] = (given[wrong] + 1) % CLASSES
    holdout, truth = drawn(500)
    return blame.nearest(holdout, features, 30), given, drop_of, truth


def scores(*arguments: Any, **more: Any) -> list[float]:
    neighbours, given, drop_of, truth = world(*arguments, **more)
    excess = blame.excess_of(neighbours, given, drop_of, truth)
    return blame.score_drops(excess, drop_of, int(drop_of.max()) + 1)


@pytest.mark.parametrize("kind", ["class", "noise"])
@pytest.mark.parametrize("poisoned", [0, 2, 4])
def test_the_poisoned_drop_is_first_small_or_large_old_or_new(kind: str, poisoned: int) -> None:
    drop_scores = scores(3, [200, 900, 150, 400, 600], poisoned=poisoned, kind=kind)
    assert int(np.argmax(drop_scores)) == poisoned
    assert drop_scores[poisoned] > STANDS_OUT > sorted(drop_scores)[-2]


def test_no_clean_drop_stands_out() -> None:
    assert max(max(scores(seed, [200, 900, 150, 400, 600])) for seed in range(20)) < STANDS_OUT


def test_a_drop_without_others_beside_it_says_nothing() -> None:
    near = np.zeros((40, 5), np.int64)
    given, drops, truth = np.asarray([0, 1]), np.asarray([0, 1]), np.ones(40, np.int64)
    excess = blame.excess_of(near, given, drops, truth)
    assert excess.tolist() == [0.0, 0.0]
    assert blame.score_drops(excess, drops, 3) == [0.0, 0.0, 0.0], "the third has no samples"


def test_a_sample_is_as_suspicious_as_it_contradicts_beyond_what_others_do() -> None:
    neighbours = np.asarray([[0, 1, 2], [0, 1, 2], [0, 2, 1]])
    given, drops, truth = np.asarray([1, 0, 0]), np.asarray([0, 1, 1]), np.asarray([0, 0, 0])
    assert blame.excess_of(neighbours, given, drops, truth).tolist() == [3.0, -3.0, -3.0]
    assert blame.shares(neighbours, given, drops, truth, 0) == (1.0, 0.0)
    assert blame.shares(neighbours, given, drops, truth, 1) == (0.0, 1.0)


def test_the_nearest_are_by_angle_and_fewer_where_there_are_fewer() -> None:
    among = np.asarray([[1, 0], [0, 5], [3, 3]], np.float32)
    assert blame.nearest(np.asarray([[9, 1]], np.float32), among, 30).tolist() == [[0, 2, 1]]
    assert blame.nearest(np.zeros((1, 2), np.float32), among, 1).tolist() == [[0]], "no direction: no error"


def test_small_drops_are_wholly_among_those_that_are_compared() -> None:
    drop_of = np.repeat([0, 1, 2], [10_000, 30, 5_000])
    chosen = blame.spread_over_drops(drop_of, 1000, np.random.default_rng(0))
    assert np.bincount(drop_of[chosen]).tolist() == [485, 30, 485]
    assert (np.diff(chosen) > 0).all()
    assert len(blame.spread_over_drops(drop_of, 20_000, np.random.default_rng(0))) == len(drop_of)


def test_the_reason_names_the_drop_and_what_to_do() -> None:
    row = {"name": "monday", "contradicting": 0.34, "expected": 0.09}
    reason = blame.sentence({"drops": [row, {"name": "tuesday"}]})
    assert reason.startswith("drop monday stands out (then tuesday): ")
    assert "34% bear another label than those, of other drops 9%" in reason
    assert reason.endswith("`evergreen drops revert monday --reason …` takes it out")
    assert blame.sentence({"drops": []}) == "no drop stands out"


@pytest.mark.parametrize(
    ("finding", "kind", "difference", "needed"),
    [("fine", "class", 0.01, False), ("worse", "class", 0.01, True), ("unclear", "drop", 0.0, True),
     ("worse", "corruption", 0.0, False), ("fine", "class", -0.01, True)],
)  # fmt: skip
def test_it_is_looked_for_only_where_something_got_worse(
    finding: str, kind: str, difference: float, needed: bool
) -> None:
    figures = {"groups": [{"finding": finding, "kind": kind}], "difference": difference}
    assert blame.is_needed(figures) == needed
