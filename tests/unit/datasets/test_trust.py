"""Whose labels may change what models are judged by."""

from datetime import UTC, datetime

import pytest

from ml.datasets import labels
from ml.datasets.labels import Annotation
from ml.datasets.trust import Trust
from ml.settings import Settings


def said(label: str, who: str | None, source: str) -> Annotation:
    return Annotation("s", label, source, who, labelled_at=datetime(2026, 1, 1, tzinfo=UTC), drop_id="d")


def test_the_source_of_an_annotation_follows_from_the_verified_level() -> None:
    feedback = Trust(whole=False, levels={"key:1": "annotate", "key:2": "review", "key:3": "propose"})
    assert [feedback.source(who) for who in ("key:1", "key:2", "key:3", "key:4", None)] == [
        labels.VERIFIED,
        labels.REVIEWER,
        *[labels.UNTRUSTED] * 3,
    ]
    assert Trust(whole=True).source("key:1") == labels.DROP


@pytest.mark.parametrize(
    ("annotations", "enters"),
    [
        ([], False),
        ([said("cat", "a", labels.UNTRUSTED), said("cat", "b", labels.UNTRUSTED)], False),
        ([said("cat", "key:1", labels.VERIFIED), said("cat", "key:1", labels.VERIFIED)], False),
        ([said("cat", "key:1", labels.VERIFIED), said("dog", "key:2", labels.VERIFIED)], False),
        ([said("cat", "key:1", labels.VERIFIED), said("cat", "key:2", labels.VERIFIED)], True),
        ([said("cat", "key:1", labels.REVIEWER)], True),
        ([said("dog", "key:1", labels.REVIEWER)], False),
    ],
)
def test_a_new_sample_enters_the_holdout_by_two_who_agree_or_a_reviewer(
    annotations: list[Annotation], enters: bool
) -> None:
    assert Trust(whole=False).may_evaluate(annotations, "cat") == enters
    assert Trust(whole=True).may_evaluate(annotations, "cat")


def test_patterns_of_trusted_drops_are_separated_by_commas() -> None:
    assert Settings.load({}).trusted_drops == ("*",)
    assert Settings.load({"EVERGREEN_TRUSTED_DROPS": "lab-*, monday"}).trusted_drops == ("lab-*", "monday")
