"""The page of a decision: whole in each case, safe, and in words."""

import re
from dataclasses import asdict
from html.parser import HTMLParser
from typing import Any

import pytest

from ml.catalog.decisions import Decision
from ml.gate import charts, report, slices, statistics
from ml.gate.policy import Policy
from ml.gate.slices import Group, Tolerance
from tests.unit.gate.figures import UNCHANGED, figures, pair

EVIL = '<script>alert("1")</script>'


class Page(HTMLParser):
    """Tags, attributes and words of a page; knows whether every tag was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def told(self) -> str:
        return re.sub(r"\s+", " ", self.words)


def group_rows(groups: list[Group]) -> list[dict[str, Any]]:
    return [asdict(group) for group in slices.evaluate_groups(groups, Tolerance(0.01, 0.05, 10, 0.05))]


def compared(verdict: str = "promote", name: str = "dog", **more: Any) -> Decision:
    """A decision against a champion: version 7 against 5."""
    champion, challenger = pair(61, 9, 600, 30)
    groups = [Group("class", name, *pair(3, 60, 120, 9), 0.3), Group("class", "cat", *pair(58, 0, 340, 30), 0.7)]
    groups += [Group("brightness", b, *pair(20, 3, 200, 10), 0.33) for b in ("dark", "medium", "bright")]
    groups += [Group("corruption", c, *pair(6, 3, 40, 15), 1.0, False) for c in ("noise", "blur", "dim", "jpeg")]
    details: dict[str, Any] = {
        "groups": group_rows(groups),
        "champion_interval": statistics.wilson(609, 700),
        "challenger_interval": statistics.wilson(661, 700),
        "champion_calibration": [{"samples": 200, "confidence": 0.75, "accuracy": 0.7}],
        "challenger_calibration": [{"samples": 500, "confidence": 0.95, "accuracy": 0.93}],
        "champion_calibration_error": 0.05,
        "challenger_calibration_error": 0.02,
        "rules": asdict(Policy(max_milliseconds=5, review_hours=8)),
    }
    return Decision(
        "d1", 7, 5, "v" * 64, verdict, "because of this", "gate", figures(champion, challenger, **(details | more))
    )


def first() -> Decision:
    """There is no champion."""
    details: dict[str, Any] = {
        "holdout": 100,
        "holdout_samples": 100,
        "challenger_accuracy": 0.9,
        "challenger_interval": [0.82, 0.94],
        "challenger_calibration": [{"samples": 100, "confidence": 0.9, "accuracy": 0.9}],
        "challenger_calibration_error": 0.01,
        "served": {"milliseconds": 1.0, "bytes": 500_000},
        "groups": [{"kind": "class", "name": "cat", "samples": 100, "challenger": 0.9}],
        "rules": asdict(Policy(alpha=0.05, min_holdout=30)),
    }
    return Decision("d0", 1, None, "v" * 64, "promote", "first model", "gate", details)


def test_the_page_says_in_words_what_was_decided_and_why() -> None:
    page = Page(report.render(compared()))
    for words in (
        "May version 7 answer?",
        "Yes: version 7 answers from now on",
        "Because of this.",
        "ahead by 7.4 points",
        "600 right before and after",
        "61 newly right",
        "9 newly wrong",
        "30 wrong before and after",
        "This was judgement number 1",
    ):
        assert words in page.told, words
    assert re.search(r"One image on one core ?2\.00 ms ?5 ms", page.told)
    assert re.search(r"dog ?192 ", page.told)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("reject", "No: version 5 goes on answering"),
        ("needs_person", "A person has to say"),
        ("needs_person", "within 8 hours"),
        ("needs_person", "evergreen approve d1"),
    ],
)
def test_each_verdict_has_its_words(verdict: str, words: str) -> None:
    assert words in Page(report.render(compared(verdict))).told


def test_a_first_model_and_an_empty_holdout_have_a_page_too() -> None:
    page = Page(report.render(first()))
    assert "Yes: version 1 answers from now on" in page.told
    assert "How far these images" not in page.told
    empty = first().statistics | {
        "holdout": 0,
        "holdout_samples": 0,
        "challenger_accuracy": None,
        "groups": [],
        "challenger_calibration": [],
    }
    nothing = Decision("d2", 1, None, "v", "reject", "the holdout has 0 samples", "gate", empty)
    assert "No: it is not good enough yet" in Page(report.render(nothing)).told


def test_what_comes_from_outside_is_escaped_and_nothing_is_fetched_or_run() -> None:
    text = report.render(compared(name=EVIL))
    page = Page(text)
    assert EVIL in page.words, "shown as words"
    assert "script" not in page.tags
    assert not page.names & {"src", "href", "onload", "onclick", "style"}
    assert "url(" not in text
    assert "@import" not in text


def harmed(name: str) -> Decision:
    """A decision on a challenger that a drop of this name made worse; it relabelled the holdout too."""
    digest = "ab" * 32
    changed = {"by": f"drop {name}", "changed": 12, "annotators": [name, "bob"]}
    changed |= {"classes": [{"before": "boot", "after": name, "changed": 12}]}
    sample = {"sha256": digest, "before": "boot", "after": name, "judged": "boot", "by": f"drop {name}"}
    relabelled = UNCHANGED | {
        "changed": 12, "share": 12 / 700, "by": [changed], "samples": [sample | {"annotators": [name]}],
        "right_before": {"champion": 11, "challenger": 2}, "right_after": {"champion": 0, "challenger": 9},
        "accuracy_after": {"champion": 0.83, "challenger": 0.85}, "applied": 3,
        "applied_by": [{"by": "operator ann", "changed": 3, "annotators": [], "classes": []}],
    }  # fmt: skip
    row = {"drop": "d-1", "name": name, "score": 9.31, "contradicting": 0.34, "expected": 0.09, "neighbours": 700}
    row |= {"images": [{"sha256": digest, "label": name}] * 20}
    blame = {"drops": [row], "compared": 6, "training_samples": 4000, "holdout_samples": 700, "highest": 9.31}
    return compared("reject", name=name, relabelled=relabelled, blame=blame, holdout_samples=812)


def test_it_names_the_drops_and_images_that_made_it_worse_and_the_command_that_removes_them() -> None:
    page = Page(report.render(harmed("monday")))
    for words in (
        "evergreen drops revert monday --reason …",
        "12 of the 700 test images got another label (1.7 %)",
        "By the new labels, on all 700 images: 83.0 % now, 85.0 % with the new model.",
        "3 labels were changed by operators, by name, or by reverting a drop: operator ann (3).",
        "with near copies of them there are 812",
        "34 %",
        "ab" * 32,
    ):
        assert words in page.told, words
    nothing = Page(
        report.render(
            compared(
                "reject", blame={"drops": [], "compared": 4, "training_samples": 9, "holdout_samples": 7, "highest": 1}
            )
        )
    )
    assert "No drop stands out: of the 4 newest" in nothing.told
    evil = Page(report.render(harmed(EVIL)))
    assert "script" not in evil.tags
    assert not evil.names & {"src", "href", "onload", "onclick", "style"}


def test_many_classes_show_the_worst_first() -> None:
    groups = [Group("class", f"c{i:03}", *pair(9, 9, 40), 0.01) for i in range(100)]
    groups.append(Group("class", "harmed", *pair(0, 90, 10), 0.01))
    page = Page(report.render(compared("reject", groups=group_rows(groups))))
    assert page.told.index("harmed") < page.told.index("c000")
    assert "And 61 more" in page.told


def test_fresh_labels_are_asked_for() -> None:
    decision = compared()
    decision.statistics["budget"] |= {"fresh_needed": 320, "labels_needed": 1600}
    assert "fresh test images" not in Page(report.render(decision)).told, "the rule asks for no proof"
    decision.statistics["rules"]["rule"] = "proven"
    text = Page(report.render(decision)).told
    assert "about 320 fresh test images are needed: some 1600 newly labelled ones" in text


def test_it_says_how_much_worse_the_new_one_could_be_and_what_would_bring_that_down() -> None:
    decision = compared(new_classes=["emu"], new_class_answers={"samples": 20, "right": 9, "sampled": 1, "unknown": 0})
    decision.statistics["budget"] |= {"stated_margin": 0.034, "labels_for_margin": 5600}
    lead = decision.statistics["lead"]
    decision.statistics["incumbents"].append({"version": 2, "role": "best so far"} | lead | {"brier": None})
    text = Page(report.render(decision)).told
    assert "worse than the best so far by at most 3.4 points" in text
    assert "About 5600 newly labelled images would bring that down to 1 points" in text
    assert re.search(r"version 5, answers now ?700 ?\+7\.4 ?\+[0-9.]+ ?\+3\.7", text)
    assert re.search(r"version 2, the best so far ?700 ?\+7\.4 ?\+[0-9.]+ ?– ?–", text)
    assert "Of 1 new class (emu) it gets 9 of 20 images right. The old one cannot know them" in text


@pytest.mark.parametrize("values", [[], [1.0], [0.0], [0.93, 0.94], [0.0, 1.0], [0.31, 0.77]])
def test_a_scale_holds_its_values_and_is_wide_enough(values: list[float]) -> None:
    low, high = charts.scale(values)
    assert 0 <= low <= min(values, default=0.5)
    assert max(values, default=0.5) <= high <= 1
    assert high - low > 0.19
