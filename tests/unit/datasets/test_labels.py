"""Whose label counts."""

from datetime import UTC, datetime, timedelta

import pytest

from ml.catalog.classes import compose_renames
from ml.datasets import labels
from ml.datasets.labels import Annotation
from ml.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)


def said(label: str, who: str | None, day: int, drop: str = "d", source: str = "drop") -> Annotation:
    return Annotation(
        sha256="s",
        label=label,
        source=source,
        annotator=who,
        labelled_at=START + timedelta(days=day),
        drop_id=drop,
        created_at=START,
    )


def chosen(policy: str, *annotations: Annotation, stands: str = "cat", trusted: tuple[str, ...] = ()) -> str:
    settings = Settings(label_policy=policy, trusted_annotators=trusted)  # type: ignore[arg-type]
    return labels.resolve_label(annotations, stands, settings)


def test_latest_takes_the_newest_by_the_time_of_labelling_not_of_arrival() -> None:
    assert chosen("latest", said("dog", "ann", 5), said("cat", "bob", 2)) == "dog"


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([said("dog", "ann", 1), said("dog", "bob", 2), said("cat", "eve", 3)], "dog"),
        ([said("cat", "ann", 1), said("dog", "bob", 2)], "cat"),  # a tie leaves what stands
        ([said("dog", "ann", 1), said("dog", "ann", 2), said("cat", "bob", 3), said("cat", "eve", 4)], "cat"),
        ([said("cat", "ann", 1), said("dog", "ann", 2)], "dog"),  # she changed her mind
        ([said("dog", None, 1, "d1"), said("dog", None, 2, "d2"), said("cat", None, 0, "d0")], "dog"),
    ],
)
def test_majority_counts_annotators_not_annotations(annotations: list[Annotation], expected: str) -> None:
    assert chosen("majority", *annotations) == expected


def test_the_first_trusted_annotator_who_said_anything_decides() -> None:
    told = [said("cat", "ann", 1), said("cat", "bob", 2), said("dog", "eve", 0)]
    assert chosen("trusted", *told, trusted=("zoe", "eve", "ann")) == "dog"
    assert chosen("trusted", *told, trusted=("zoe",)) == "cat"


def test_what_an_operator_said_outweighs_all_that_was_said_before() -> None:
    before = [said("dog", "ann", 1), said("dog", "bob", 2)]
    answer = said("cat", "eve", 0, source=labels.OPERATOR)
    assert chosen("majority", *before, answer, stands="dog") == "cat"
    assert chosen("majority", answer, *before, stands="cat") == "dog"


def test_saying_the_same_again_is_no_news() -> None:
    first = said("cat", None, 1, "d1")
    assert labels.new_annotations([said("cat", None, 9, "d2")], [first]) == []
    assert [n.label for n in labels.new_annotations([said("dog", None, 9, "d2"), said("cat", "ann", 9)], [first])] == [
        "dog",
        "cat",
    ]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(["a"], "b"), (["b"], "c")], {"a": "c", "b": "c"}),
        ([(["a", "b"], "c"), (["x"], "a")], {"b": "c", "x": "a"}),
        ([(["a"], "b"), (["b"], "a")], {"b": "a"}),
        ([(["a", "b"], "b")], {"a": "b"}),
    ],
)
def test_steps_of_renaming_become_one_map(steps: list[tuple[list[str], str]], expected: dict[str, str]) -> None:
    assert compose_renames(steps) == expected


def test_trusted_annotators_are_separated_by_commas() -> None:
    assert Settings.load({"EVERGREEN_TRUSTED_ANNOTATORS": "ann, bob,"}).trusted_annotators == ("ann", "bob")
