"""How much of the holdout a drop can become."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ml.datasets import holdout_growth
from ml.datasets.splits import Splitter

COUNTS = st.dictionaries(st.text(max_size=3), st.integers(0, 500), max_size=8)


def splitter(quota: dict[str, int] | None = None) -> Splitter:
    return Splitter("salt", holdout_share=0.2, validation_share=0.1, quota=quota)


@given(COUNTS, st.integers(0, 1000))
def test_scaled_counts_keep_their_proportions_and_their_total(counts: dict[str, int], most: int) -> None:
    scaled = holdout_growth.in_proportion(counts, most)
    total = sum(counts.values())
    assert sum(scaled.values()) == min(most, total)
    for label, count in counts.items():
        assert scaled[label] <= count
        assert abs(scaled[label] - count * min(1, most / max(1, total))) < 1 + 1e-9


def test_what_is_beyond_the_quota_of_its_class_trains() -> None:
    free, bounded = splitter(), splitter({"a": 3})
    groups = [(f"g{i}", "ab"[i % 2]) for i in range(200)]
    drawn = Counter(label for group, label in groups if free.choose(group, label) == "holdout")
    assert free.added == drawn
    chosen = [bounded.choose(group, label) for group, label in groups]
    assert bounded.added == {"a": 3}
    assert bounded.diverted == {"a": drawn["a"] - 3, "b": drawn["b"]}
    assert chosen.count("holdout") == 3
    assert chosen.count("validation") == sum(free.draw(group) == "validation" for group, _ in groups)


def test_equal_pictures_are_one_candidate() -> None:
    rows = [("a", f"g{i % 50}") for i in range(500)]
    drawn = sum(splitter().draw(f"g{i}") == "holdout" for i in range(50))
    assert holdout_growth.candidates(splitter(), rows) == {"a": drawn}
