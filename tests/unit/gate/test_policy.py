"""The gate's promises, by simulation and by hand."""

import numpy as np
import pytest

from ml.catalog.decisions import Decision
from ml.gate import policy, report, statistics
from ml.gate.policy import Policy

RULES = Policy(alpha=0.05, min_holdout=30)


def test_equal_models_are_promoted_at_most_as_often_as_stated() -> None:
    generator = np.random.default_rng(1)
    promoted = 0
    for _ in range(1000):
        champion, challenger = generator.random((2, 400)) < 0.9
        comparison = statistics.compare(champion, challenger, seed=0, rounds=10)
        promoted += policy.against_champion(comparison, [], RULES).verdict == "promote"
    assert promoted <= 65  # 5 % and three standard deviations


def test_a_clearly_better_model_is_promoted() -> None:
    generator = np.random.default_rng(2)
    champion = generator.random(600) < 0.80
    challenger = champion | (generator.random(600) < 0.5)
    comparison = statistics.compare(champion, challenger, seed=0)
    ruling = policy.against_champion(comparison, [], RULES)
    assert ruling.verdict == "promote"
    assert f"{comparison.challenger_only_right} gained, 0 lost" in ruling.reason
    low, high = comparison.difference_interval
    assert 0 < low < comparison.difference < high


def test_a_better_model_that_harms_a_class_is_rejected_by_name() -> None:
    labels = np.repeat([0, 1], 200)
    champion = np.concatenate([np.full(200, False), np.full(200, True)])
    challenger = np.concatenate([np.full(200, True), np.arange(200) >= 40])
    harmed = policy.harmed_classes(champion, challenger, labels, ["cat", "dog"], 0.05)
    assert harmed == ["dog"]
    ruling = policy.against_champion(statistics.compare(champion, challenger, seed=0), harmed, RULES)
    assert ruling.verdict == "reject"
    assert "worse on class dog" in ruling.reason


@pytest.mark.parametrize("samples", [0, 1, 29])
def test_a_tiny_holdout_decides_nothing(samples: int) -> None:
    right = np.full(samples, True)
    ruling = policy.first_model(right, np.zeros(samples, np.int64), RULES)
    assert ruling.verdict == "reject"
    assert f"has {samples} samples" in ruling.reason


def test_a_first_model_must_beat_the_commonest_class() -> None:
    labels = np.repeat([0, 1], [90, 10])
    assert policy.first_model(labels == 0, labels, RULES).verdict == "reject"
    assert policy.first_model(np.full(100, True), labels, RULES).verdict == "promote"


@pytest.mark.parametrize(("better", "worse", "p"), [(0, 0, 1.0), (5, 5, 0.623), (10, 0, 0.000977), (8, 2, 0.0547)])
def test_mcnemar_is_the_exact_binomial(better: int, worse: int, p: float) -> None:
    assert statistics.mcnemar(better, worse) == pytest.approx(p, rel=1e-2)


def test_holm_stops_at_the_first_that_stands() -> None:
    assert statistics.holm([0.001, 0.04, 0.03, 0.5], 0.05) == [True, False, False, False]


def test_the_report_escapes_what_comes_from_outside() -> None:
    evil = "<script>alert(1)</script>"
    rows = [{"class": evil, "samples": 3, "challenger": 0.5}]
    figures = {"challenger_accuracy": 0.9, "challenger_interval": [0.8, 0.95], "classes": rows}
    page = report.render(Decision("d", 2, None, "v", "promote", evil, "gate", figures))
    assert evil not in page
    assert "90.0 %" in page
