"""When people are asked for labels: where a small or worn holdout alone kept a challenger from being promoted."""

from dataclasses import asdict
from typing import Any

import pytest

from ml.catalog.decisions import Decision
from ml.gate.decide import asks_for_labels
from ml.gate.policy import Policy
from tests.unit.gate.figures import figures, pair

PROMISING, WORSE, EQUAL = pair(30, 15, 600), pair(15, 30, 600), pair(20, 20, 600)
NARROW = pair(11, 8, 170, 11)


def decision(models: Any, verdict: str = "reject", needed: int = 320, rule: Any = "proven", **more: Any) -> Decision:
    champion, challenger = models
    statistics = figures(champion, challenger, level=0.001, rules=asdict(Policy(rule=rule)), **more)
    statistics["budget"] |= {"fresh_needed": needed, "labels_needed": 5 * needed}
    return Decision("d", 7, 5, "v", verdict, "so", "gate", statistics)


def test_a_promising_model_that_could_not_be_proven_better_asks() -> None:
    words = asks_for_labels(decision(PROMISING))
    assert words is not None
    assert "To see 2.0% next time, 320 fresh holdout samples are needed: about 1600 labelled images" in words


def test_a_model_that_is_ahead_on_too_few_samples_asks_for_those_that_would_exclude_a_loss() -> None:
    words = asks_for_labels(decision(NARROW, rule="better"))
    assert words is not None
    assert words.startswith("version 7 is ahead, but 200 holdout samples cannot exclude a loss of more than 1 point.")
    samples, labels = _numbers(words)
    assert 1000 < samples < 6000, "as the width shrinks with the root of the samples"
    assert labels == pytest.approx(5 * samples, abs=5)


def _numbers(words: str) -> tuple[int, int]:
    *_, samples, labels = (int(word) for word in words.split() if word.isdigit())
    return samples, labels


@pytest.mark.parametrize(
    "quiet",
    [
        decision(PROMISING, "promote"),
        decision(PROMISING, needed=0),
        decision(WORSE),
        decision(EQUAL),
        decision(NARROW, rule="better", lost_classes=["cat"]),
        decision(NARROW[::-1], rule="better"),
        Decision("d", 1, None, "v", "reject", "first", "gate", {}),
    ],
    ids=["promoted", "enough", "worse", "equal", "harmful", "behind", "first"],
)
def test_else_nobody_is_bothered(quiet: Decision) -> None:
    assert asks_for_labels(quiet) is None
