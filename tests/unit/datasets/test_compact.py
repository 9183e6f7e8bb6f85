"""Which runs of small segments are worth rewriting."""

import pytest

from ml.datasets.compact import small_runs


def test_only_what_pays_is_rewritten() -> None:
    sizes = {str(i): 10 for i in range(20)}
    order = [str(i) for i in range(20)]
    assert small_runs(order, sizes, 1000) == [order]
    assert small_runs(order[:7], sizes, 1000) == []
    assert small_runs(order, sizes | {"5": 900}, 1000) == [order[6:]]
    assert small_runs(order, sizes | {"5": 490}, 1000) == []
    assert small_runs(order, sizes | {str(i): 60 for i in range(20)} | {"0": 490}, 1000) == [order]


@pytest.mark.parametrize(
    ("sizes", "rewritten"),
    [
        ([499] * 8, True),  # under half of the limit each
        ([500] * 8, False),
        ([10] * 8, True),  # 80 bytes: four times the largest
        ([10] * 7, False),
        ([30] + [10] * 9, True),  # 120 bytes
        ([31] + [10] * 9, False),  # 121 bytes, 124 are needed
        ([300] + [100] * 7, True),  # 1,000 bytes fill a segment
        ([300] + [100] * 6 + [99], False),
    ],
)
def test_a_run_is_rewritten_if_it_is_long_and_much_larger_than_its_largest_segment(
    sizes: list[int], rewritten: bool
) -> None:
    order = [f"s{i}" for i in range(len(sizes))]
    assert small_runs(order, dict(zip(order, sizes, strict=True)), 1000) == ([order] if rewritten else [])


def test_runs_are_parted_by_large_segments_and_keep_their_order() -> None:
    order = [f"s{i}" for i in range(21)]
    sizes = dict.fromkeys(order, 10) | {"s8": 800, "s9": 800, "s18": 800}
    assert small_runs(order, sizes, 1000) == [order[:8], order[10:18]]
    assert small_runs([], {}, 1000) == []
