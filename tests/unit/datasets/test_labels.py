"""Whose label counts."""

from dataclasses import replace
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
    settings = Settings(label_policy=policy, trusted_annotators=trusted)
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


def by_operator(label: str, day: int) -> Annotation:
    return said(label, "op", day, source=labels.OPERATOR)


@pytest.mark.parametrize("policy", ["latest", "majority", "trusted"])
def test_an_operator_overrides_what_was_said_before_whatever_the_dates(policy: str) -> None:
    earlier = [said("dog", "ann", 8), said("dog", "bob", 9), said("dog", "eve", 9)]
    assert chosen(policy, *earlier, by_operator("cow", 1), stands="dog", trusted=("ann",)) == "cow"
    assert chosen(policy, *earlier, by_operator("cow", 1), by_operator("pig", 1), trusted=("ann",)) == "pig"


def test_what_is_said_after_an_operator_counts_beside_it() -> None:
    answers = [said("dog", "ann", 1), by_operator("cow", 2), said("dog", "ann", 3)]
    assert chosen("latest", *answers) == "dog"
    assert chosen("majority", *answers, stands="cow") == "cow"  # one against one
    assert chosen("majority", *answers, said("dog", "bob", 4), stands="cow") == "dog"
    assert chosen("trusted", *answers, trusted=("ann",)) == "dog"


@pytest.mark.parametrize("policy", ["latest", "majority", "trusted"])
def test_without_annotations_the_label_stands(policy: str) -> None:
    assert chosen(policy, stands="cat") == "cat"


def test_an_annotation_without_a_date_is_of_its_arrival() -> None:
    undated = replace(said("dog", "ann", 0), labelled_at=None)  # it came on day 0
    assert chosen("latest", undated, said("cat", "bob", 1)) == "cat"
    assert chosen("latest", undated, said("cat", "bob", -1)) == "dog"


def test_a_disagreement_counts_each_annotator_once() -> None:
    assert labels.disagreement([said("dog", "ann", 1), said("cat", "ann", 2)]) == {}
    votes = [said("dog", "ann", 1), said("dog", "ann", 2), said("cat", "bob", 3), said("cat", None, 4)]
    assert labels.disagreement(votes) == {"dog": 1, "cat": 2}
    assert labels.disagreement([*votes, by_operator("cow", 0)]) == {}


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


def test_who_changes_their_mind_back_ends_at_the_last_word() -> None:
    words = [said("cat", "ann", 1, "d1"), said("dog", "ann", 2, "d2"), said("cat", "ann", 3, "d3")]
    kept: list[Annotation] = []
    for word in words:
        kept += labels.new_annotations([word], kept)
    assert [a.label for a in kept] == ["cat", "dog", "cat"]
    assert chosen("majority", *kept, stands="dog") == "cat"
    assert labels.new_annotations(words, kept) == [], "the old tables again are no news"
    undated = [replace(word, labelled_at=None, created_at=None) for word in words]
    assert [a.label for a in labels.new_annotations(undated, [])] == ["cat", "dog", "cat"]


def untrusted(label: str, who: str | None, drop: str) -> Annotation:
    return said(label, who, 1, drop, source=labels.UNTRUSTED)


def verified(label: str, key: str, day: int = 1) -> Annotation:
    return said(label, key, day, source=labels.VERIFIED)


def test_an_untrusted_drop_is_one_vote_whatever_names_are_in_it() -> None:
    stands = said("cat", "ann", 0)
    invented = [untrusted("dog", f"a{i}", "d1") for i in range(9)]
    assert labels.disagreement([stands, *invented]) == {"cat": 1, "dog": 1}
    assert chosen("majority", stands, *invented) == "cat"
    new = labels.new_annotations([untrusted("dog", "a", f"d{i}") for i in range(9)], [stands])
    assert len(new) == 1, "and many of them that say the same are one, too"
    posed = [said("dog", "key:7", 1, "d2"), said("dog", "key:8", 1, "d2")]
    assert chosen("trusted", stands, *posed, trusted=("key:7",)) == "cat", "names of keys are no identities in a table"


@pytest.mark.parametrize("policy", ["latest", "majority", "trusted"])
def test_what_counts_in_validation_and_holdout(policy: str) -> None:
    settings = Settings(label_policy=policy)

    def of_holdout(*annotations: Annotation) -> str:
        return labels.resolve_label([said("cat", "ann", 0), *annotations], "cat", settings, protected=True)

    assert of_holdout(*(untrusted("dog", f"a{i}", f"d{i}") for i in range(99))) == "cat"
    assert of_holdout(verified("dog", "key:1"), verified("dog", "key:1", 2)) == "cat", "one person"
    assert of_holdout(verified("dog", "key:1"), verified("cow", "key:2")) == "cat"
    assert of_holdout(verified("dog", "key:1"), verified("dog", "key:2")) == "dog"
    assert of_holdout(verified("dog", "key:1"), verified("dog", "key:2"), verified("cat", "key:2", 5)) == "cat"
    assert of_holdout(said("dog", "key:3", 1, source=labels.REVIEWER)) == "dog"
    alone = labels.resolve_label([untrusted("dog", None, "d1")], "cat", settings, protected=True)
    assert alone == "cat"
