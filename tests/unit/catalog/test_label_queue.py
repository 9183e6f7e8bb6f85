"""One caller is one vote, whomever it names."""

from datetime import UTC, datetime, timedelta

from ml.catalog.api_keys import Grant
from ml.catalog.label_queue import Opinion, votes

START = datetime(2026, 1, 1, tzinfo=UTC)


def opinion(key: str, source: str, label: str, minute: int) -> Opinion:
    return Opinion(key, source, label, "annotate", START + timedelta(minutes=minute))


def test_a_hundred_end_users_of_a_key_are_one_vote() -> None:
    opinions = [opinion("k", f"u{n}", "cat" if n % 3 else "dog", n) for n in range(100)]
    assert votes(opinions) == {"k": "cat"}


def test_the_last_word_of_each_end_user_counts_at_once() -> None:
    assert votes([opinion("k", "ann", "dog", 5), opinion("k", "ann", "cat", 2)]) == {"k": "dog"}


def test_end_users_who_tie_leave_it_to_the_newest() -> None:
    assert votes([opinion("k", "ann", "dog", 1), opinion("k", "bob", "cat", 2)]) == {"k": "cat"}
    assert votes([opinion("k", "ann", "dog", 3), opinion("k", "bob", "cat", 2)]) == {"k": "dog"}


def test_each_caller_has_its_own_vote() -> None:
    assert votes([opinion("a", "x", "dog", 1), opinion("b", "x", "cat", 2)]) == {"a": "dog", "b": "cat"}


def test_what_feedback_counts_as_follows_from_the_roles() -> None:
    levels = {roles: Grant("x", roles).level for roles in (("feedback",), ("annotate",), ("review",), ("admin",))}
    assert levels == {
        ("feedback",): "propose",
        ("annotate",): "annotate",
        ("review",): "review",
        ("admin",): "review",
    }
    assert Grant("x", ("predict", "feedback", "annotate")).level == "annotate"


def test_a_role_includes_the_lesser_ones_and_no_other() -> None:
    asked = ("predict", "feedback", "annotate", "review", "operate")
    roles = ("feedback", "annotate", "review", "operate")
    allowed = {role: {other for other in asked if Grant("x", (role,)).allows(other)} for role in roles}
    assert allowed == {
        "feedback": {"feedback"},
        "annotate": {"feedback", "annotate"},
        "review": {"feedback", "annotate", "review"},
        "operate": {"operate"},
    }
