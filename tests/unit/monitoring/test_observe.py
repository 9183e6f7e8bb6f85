"""When a drift report has reasons to train again."""

import pytest

from ml.monitoring import observe


def figures(**changes: float) -> dict[str, float]:
    return {"class_shift": 0.0, "class_noise": 0.0, "confidence_shift": 0.0, "confidence_noise": 0.0} | changes


CLASSES, CONFIDENCES = "answered classes", "confidences"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"class_shift": 0.25}, None),  # at the threshold
        ({"class_shift": 0.26}, (CLASSES, "0.26", "0.25")),
        ({"class_shift": 0.26, "class_noise": 0.3}, None),  # chance alone may give as much
        ({"class_shift": 0.41, "class_noise": 0.3}, (CLASSES, "0.41", "0.30")),
        ({"class_shift": 0.41, "confidence_noise": 9.0}, (CLASSES, "0.41", "0.25")),
        ({"confidence_shift": 0.5}, (CONFIDENCES, "0.50", "0.25")),
        ({"confidence_shift": 0.5, "confidence_noise": 0.5}, None),
    ],
)
def test_a_shift_counts_above_the_threshold_and_above_noise(
    changes: dict[str, float], expected: tuple[str, str, str] | None
) -> None:
    message = "the {} have shifted: population stability index {}, {} is the limit"
    assert observe._reasons(figures(**changes), 0.25) == ([message.format(*expected)] if expected else [])


def test_both_shifts_are_reasons() -> None:
    reasons = observe._reasons(figures(class_shift=1.0, confidence_shift=1.0), 0.25)
    assert [reason.split(" have")[0] for reason in reasons] == ["the answered classes", "the confidences"]
