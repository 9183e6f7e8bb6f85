"""Verdicts from figures, in words."""

from typing import Any

import numpy as np
import pytest

from ml.gate import policy
from ml.gate.policy import Policy
from tests.unit.gate.figures import figures, pair

RULES = Policy(alpha=0.05, min_holdout=30)
BETTER = pair(61, 9, 600, 30)
SERVED = {"served": {"milliseconds": 2.0, "bytes": 1000}}


def row(kind: str, name: str, finding: str) -> dict[str, Any]:
    return {"kind": kind, "name": name, "finding": finding}


def test_a_clearly_better_model_is_promoted_and_the_words_tell_the_figures() -> None:
    ruling = policy.against_champion(figures(*BETTER), RULES)
    assert ruling.verdict == "promote"
    assert ruling.reason == "94.4% against 87.0% on 700 holdout samples: 61 gained, 9 lost, p < 0.0001"


def test_a_worse_one_and_an_equal_one_are_rejected() -> None:
    for champion, challenger in (BETTER[::-1], pair(20, 20, 600)):
        ruling = policy.against_champion(figures(champion, challenger), RULES)
        assert ruling.verdict == "reject"
        assert ruling.reason.startswith("not provably better: ")


@pytest.mark.parametrize(("review", "verdict"), [("never", "reject"), ("borderline", "needs_person")])
def test_what_one_look_would_promote_and_so_many_looks_do_not(review: Any, verdict: str) -> None:
    rules = Policy(alpha=0.05, min_holdout=30, review=review)
    ruling = policy.against_champion(figures(*pair(30, 15, 600), level=0.001), rules)
    assert ruling.verdict == verdict
    assert "not beyond what chance does in so many decisions (level 0.001)" in ruling.reason


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"groups": [row("class", "dog", "worse"), row("drop", "d", "fine")]}, "worse on class dog; "),
        ({"calibration_rise": 0.1, "calibration_rise_least": 0.06}, "its confidence is off by 10.0% more"),
        ({"lost_classes": ["cat"]}, "it does not know class cat any more; "),
        ({"served": {"milliseconds": 9.5, "bytes": 10}}, "an image takes 9.50 ms, at most 5 are allowed; "),
        ({"served": {"milliseconds": 1.0, "bytes": 3000}}, "it has 3000 bytes, at most 2000 are allowed; "),
    ],
)
def test_whatever_the_gain_some_harms_forbid_it(more: dict[str, Any], words: str) -> None:
    rules = Policy(alpha=0.05, min_holdout=30, max_milliseconds=5, max_bytes=2000, review="always")
    ruling = policy.against_champion(figures(*BETTER, **more), rules)
    assert ruling.verdict == "reject", "no person is asked about a proven harm"
    assert ruling.reason.startswith(words)
    assert policy.against_champion(figures(*BETTER), rules).verdict == "needs_person"


def test_a_rise_of_the_calibration_error_that_is_not_sure_is_tolerated() -> None:
    unsure = figures(*BETTER, calibration_rise=0.1, calibration_rise_least=0.04)
    assert policy.against_champion(unsure, RULES).verdict == "promote"


@pytest.mark.parametrize(
    "more", [{"groups": [row("brightness", "dark", "unclear")]}, {"new_classes": ["bird"]}], ids=["unclear", "new"]
)
def test_doubts_are_a_persons_where_persons_are_asked(more: dict[str, Any]) -> None:
    asked = policy.against_champion(figures(*BETTER, **more), Policy(0.05, 30, review="borderline"))
    assert asked.verdict == "needs_person"
    assert asked.reason.startswith(("unclear on brightness dark; ", "new class bird; "))
    assert policy.against_champion(figures(*BETTER, **more), RULES).verdict == "promote"
    sure = policy.against_champion(figures(*BETTER), Policy(0.05, 30, review="borderline"))
    assert sure.verdict == "promote"


def test_another_metric_and_fresh_samples_are_told() -> None:
    told = figures(*BETTER)
    told["budget"] |= {"metric": "recall:dog", "metric_words": "recall of dog", "samples": 250}
    reason = policy.against_champion(told, RULES).reason
    assert "recall of dog 0.944 against 0.870, tested on the 250 fresh ones, p < 0.0001" in reason


@pytest.mark.parametrize("samples", [0, 1, 29])
def test_a_tiny_holdout_decides_nothing(samples: int) -> None:
    ruling = policy.first_model(np.full(samples, True), np.zeros(samples, np.int64), SERVED, RULES)
    assert ruling.verdict == "reject"
    assert f"has {samples} samples" in ruling.reason


def test_a_first_model_must_beat_the_commonest_class_and_the_budgets() -> None:
    labels = np.repeat([0, 1], [90, 10])
    right = np.full(100, True)
    assert policy.first_model(labels == 0, labels, SERVED, RULES).verdict == "reject"
    assert policy.first_model(right, labels, SERVED, RULES).verdict == "promote"
    assert policy.first_model(right, labels, SERVED, Policy(0.05, 30, max_bytes=999)).verdict == "reject"
    assert policy.first_model(right, labels, SERVED, Policy(0.05, 30, review="always")).verdict == "needs_person"
