"""A version's id is the hash of what it consists of."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ml.datasets.versions import Manifest

ONE = Manifest(("s1", "s2"), {"x": "a", "y": "b"}, ("r1", "r2"), ("a", "b"))
names = st.lists(st.text(max_size=5), unique=True, max_size=5).map(tuple)


@given(names, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4), names, names)
def test_it_survives_being_written(
    segments: tuple[str, ...], relabels: dict[str, str], removals: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    manifest = Manifest(segments, relabels, removals, classes)
    assert Manifest.parse(manifest.to_bytes()).id == manifest.id


def test_order_that_means_nothing_changes_nothing() -> None:
    assert ONE.id == replace(ONE, relabels={"y": "b", "x": "a"}, removals=("r2", "r1"), classes=("b", "a")).id


def test_anything_that_means_something_changes_the_id() -> None:
    others = [
        replace(ONE, segments=("s2", "s1")),
        replace(ONE, segments=("s1",)),
        replace(ONE, relabels={"x": "a"}),
        replace(ONE, removals=("r1",)),
        replace(ONE, classes=("a",)),
    ]
    assert len({m.id for m in [ONE, *others]}) == 6
