"""Which label tasks the rows of a drop open."""

from datetime import UTC, datetime
from typing import Any

import pytest

from ml.datasets import annotate, labels
from ml.datasets.labels import Annotation, LabelQuestion
from ml.datasets.near_duplicates import Neighbour
from ml.datasets.trust import Trust
from ml.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)


def annotation(label: str, annotator: str | None, day: int = 1) -> dict[str, Any]:
    return {"label": label, "annotator": annotator, "confidence": None, "labelled_at": START.replace(day=day)}


def row(
    label: str, annotator: str | None = None, *others: dict[str, Any], near: tuple[str, ...] = ()
) -> dict[str, Any]:
    neighbours = [Neighbour(f"near-{name}", "g", "train", name) for name in near]
    return {"sha256": "s", **annotation(label, annotator), "others": others or None, "neighbours": neighbours}


def changes(one: dict[str, Any], policy: str = "majority") -> annotate.AnnotationChanges:
    return annotate.changes_for_new([one], "drop-1", Settings(label_policy=policy), Trust(whole=True))


def test_a_row_is_one_annotation_of_its_drop() -> None:
    changed = changes(row("cat", "ann"))
    assert changed.annotations == [Annotation("s", "cat", "drop", "ann", None, START, "drop-1")]
    assert (changed.tasks, changed.changes, changed.settled) == ([], [], [])


def test_annotators_who_agree_open_no_task_and_repeat_nothing() -> None:
    changed = changes(row("cat", "ann", annotation("cat", "bob"), annotation("cat", "ann", 5)))
    assert [(a.annotator, a.label) for a in changed.annotations] == [("ann", "cat"), ("bob", "cat")]
    assert changed.tasks == []


def test_a_conflict_is_a_task_with_the_votes_and_the_share_of_those_who_differ() -> None:
    others = (annotation("dog", "bob"), annotation("dog", "eve"), annotation("dog", "joe"))
    (task,) = changes(row("cat", "ann", *others)).tasks
    one_of_four_differs = 0.25
    votes = {"votes": {"cat": 1, "dog": 3}}
    assert task == LabelQuestion("s", labels.CONFLICT, one_of_four_differs, "dog", "dog", votes)


def test_a_task_suggests_what_most_say_even_if_the_policy_chose_otherwise() -> None:
    one = row("cat", "ann", annotation("cat", "bob"), annotation("dog", "eve", 9))
    (task,) = changes(one, "latest").tasks
    assert (task.label, task.suggested) == ("dog", "cat")
    assert task.score == pytest.approx(2 / 3)


def test_a_near_duplicate_of_another_label_is_a_task() -> None:
    assert changes(row("cat", near=("cat",))).tasks == []
    (task,) = changes(row("cat", near=("cat", "dog", "cow"))).tasks
    assert (task.reason, task.label, task.suggested) == (labels.NEAR_CONFLICT, "cat", "dog")
    assert task.details == {"looks_like": "near-dog"}


def test_both_kinds_of_conflict_are_two_tasks() -> None:
    changed = changes(row("cat", "ann", annotation("dog", "bob"), near=("dog",)))
    assert [task.reason for task in changed.tasks] == [labels.CONFLICT, labels.NEAR_CONFLICT]
