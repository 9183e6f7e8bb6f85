"""Near duplicates: nothing near is missed, nothing near is on two sides."""

from itertools import combinations
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ml.datasets import near_duplicates
from ml.datasets.near_duplicates import Neighbour, SplitAssigner, SplitAssignment
from ml.datasets.splits import Splitter
from tests.pictures import halves

SPLITTER = Splitter("evergreen-1", holdout_share=0.2, validation_share=0.1)
# Few bits vary, so that many hashes are near one another and chains of them are common.
HASHES = st.lists(st.integers(0, 15), min_size=0, max_size=5).map(lambda bits: sum({1 << (b * 4) for b in bits}))


def row(number: int, value: int) -> dict[str, Any]:
    high, low = halves(value)
    return {"key": f"k{number}", "label": "a", "fingerprint": f"f{number}", "phash_high": high, "phash_low": low}


def looks(values: list[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    both = np.array([halves(v) for v in values], np.int32).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


@settings(deadline=None)
@given(st.lists(HASHES, max_size=40))
def test_every_near_pair_of_a_drop_is_found_and_no_other(values: list[int]) -> None:
    found = near_duplicates.find_within(*looks(values))
    expected = {
        (j, i)
        for i, j in combinations(range(len(values)), 2)
        if distance(values[i], values[j]) <= near_duplicates.RADIUS
    }
    assert {(later, e) for later, earlier in found.items() for e in earlier} == expected


@settings(deadline=None)
@given(st.lists(st.lists(HASHES, max_size=12), max_size=8))
def test_no_stream_of_drops_brings_near_samples_to_two_splits(drops: list[list[int]]) -> None:
    stored: list[tuple[int, Neighbour]] = []
    for number, values in enumerate(drops):
        rows = [row(number * 100 + i, v) for i, v in enumerate(values)]
        known = {
            i: found
            for i, v in enumerate(values)
            if (found := [n for other, n in stored if distance(v, other) <= near_duplicates.RADIUS])
        }
        placer = SplitAssigner(*looks(values), SPLITTER)
        for i, (value, told) in enumerate(zip(values, rows, strict=True)):
            if isinstance(place := placer.assign(i, told, known.get(i, ())), SplitAssignment):
                stored.append((value, Neighbour(told["key"], place.group_id, place.split, "a")))
    for (one, a), (other, b) in combinations(stored, 2):
        if distance(one, other) <= near_duplicates.RADIUS:
            assert a.split == b.split


def test_what_looks_like_both_sides_is_put_aside_with_both_names() -> None:
    known = [Neighbour("aaa", "g1", "train", "x"), Neighbour("bbb", "g2", "holdout", "x")]
    place = SplitAssigner(*looks([0]), SPLITTER).assign(0, row(0, 0), known)
    assert isinstance(place, str)
    assert "aaa (train)" in place
    assert "bbb (holdout)" in place


def test_a_near_duplicate_joins_the_group_and_the_split_of_the_first() -> None:
    known = [Neighbour("aaa", "g1", "validation", "x"), Neighbour("bbb", "g2", "validation", "y")]
    place = SplitAssigner(*looks([0]), SPLITTER).assign(0, row(0, 0), known)
    assert place == SplitAssignment("g1", "validation", tuple(known), links=1)


def test_a_sample_that_is_put_aside_is_no_neighbour_of_later_ones() -> None:
    known = [Neighbour("aaa", "g1", "train", "x"), Neighbour("bbb", "g2", "holdout", "x")]
    placer = SplitAssigner(*looks([0, 1, 3]), SPLITTER)
    assert isinstance(placer.assign(0, row(0, 0), known), str)
    alone = placer.assign(1, row(1, 1), ())
    assert isinstance(alone, SplitAssignment)
    assert (alone.group_id, alone.neighbours) == ("f1", ())
    neighbours = (Neighbour("k1", "f1", alone.split, "a"),)
    assert placer.assign(2, row(2, 3), ()) == SplitAssignment("f1", alone.split, neighbours, links=1)


def test_a_sample_whose_label_nobody_trusted_gave_is_for_training_only() -> None:
    for value in range(0, 4000, 100):
        place = SplitAssigner(*looks([value]), SPLITTER).assign(0, row(0, value), [], trusted=False)
        assert isinstance(place, SplitAssignment)
        assert place.split == "train"
    for split in ("holdout", "validation"):
        known = [Neighbour("a" * 64, "g", split, "cat")]
        reason = SplitAssigner(*looks([0]), SPLITTER).assign(0, row(0, 0), known, trusted=False)
        assert "of no trusted source" in str(reason)
