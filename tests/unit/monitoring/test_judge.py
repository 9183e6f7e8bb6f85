"""How a failed expectation on the prediction log is described."""

from typing import Any

import pytest

from ml.monitoring import judge


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        ({"found": ["label `x`", "label `y`"], "keys": ["id-1", "id-2"]}, "label `x` (2 answers, such as id-1)"),
        ({"found": [], "keys": ["id-1"]}, "too slow (1 answers, such as id-1)"),
        ({"found": ["3 of 9 answers"], "keys": []}, "3 of 9 answers"),
        ({"found": [], "keys": []}, "too slow"),
    ],
)
def test_a_failure_says_what_was_found_and_where(failed: dict[str, Any], expected: str) -> None:
    assert judge._describe({"reason": "too slow", **failed}) == expected
