"""The split is a pure function of the group, and the shares come out as asked."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ml.datasets.splits import SPLITS, split_of

shares = st.floats(0.01, 0.49)
FROZEN = "holdout train holdout train train validation train holdout train holdout train train"


def test_it_never_changes() -> None:
    found = [split_of(f"g{i}", "evergreen-1", 0.2, 0.1) for i in range(12)]
    assert " ".join(found) == FROZEN


@given(st.text(), st.text(), shares, shares)
def test_the_same_group_is_always_in_the_same_split(group: str, salt: str, holdout: float, validation: float) -> None:
    first = split_of(group, salt, holdout, validation)
    assert first in SPLITS
    assert first == split_of(group, salt, holdout, validation)


@given(st.text(), shares, shares)
def test_a_larger_holdout_takes_from_the_others_and_gives_nothing(group: str, holdout: float, more: float) -> None:
    if split_of(group, "s", holdout, 0.1) == "holdout":
        assert split_of(group, "s", min(0.9, holdout + more), 0.1) == "holdout"


def test_the_shares_are_as_asked() -> None:
    counts = Counter(split_of(str(i), "salt", 0.2, 0.1) for i in range(20_000))
    assert abs(counts["holdout"] / 20_000 - 0.2) < 0.01
    assert abs(counts["validation"] / 20_000 - 0.1) < 0.01
