"""When people are asked for labels: where a worn holdout alone kept an improvement from being proven."""

from typing import Any

import pytest

from ml.catalog.decisions import Decision
from ml.gate.decide import asks_for_labels
from tests.unit.gate.figures import figures, pair

PROMISING, WORSE, EQUAL = pair(30, 15, 600), pair(15, 30, 600), pair(20, 20, 600)


def decision(models: Any, verdict: str = "reject", needed: int = 320) -> Decision:
    told = figures(*models, level=0.001)
    told["budget"] |= {"fresh_needed": needed, "labels_needed": 5 * needed}
    return Decision("d", 7, 5, "v", verdict, "so", "gate", told)


def test_a_promising_model_that_could_not_be_proven_better_asks() -> None:
    words = asks_for_labels(decision(PROMISING))
    assert words is not None
    assert "To see 2.0% next time, 320 fresh holdout samples are needed: about 1600 labelled images" in words


@pytest.mark.parametrize(
    "quiet",
    [
        decision(PROMISING, "promote"),
        decision(PROMISING, needed=0),
        decision(WORSE),
        decision(EQUAL),
        Decision("d", 1, None, "v", "reject", "first", "gate", {}),
    ],
    ids=["promoted", "enough", "worse", "equal", "first"],
)
def test_else_nobody_is_bothered(quiet: Decision) -> None:
    assert asks_for_labels(quiet) is None
