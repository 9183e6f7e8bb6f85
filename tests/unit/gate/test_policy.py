"""Verdicts from figures, in words."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from ml.gate import policy
from ml.gate.lead import lead
from ml.gate.policy import Policy
from tests.unit.gate.figures import UNCHANGED, differences, figures, pair

BETTER = pair(61, 9, 600, 30)
SERVED = {"served": {"milliseconds": 2.0, "bytes": 1000}, "holdout": 100, "holdout_samples": 100}
PROVEN = Policy(rule="proven")


def row(kind: str, name: str, finding: str, *, judged: bool = True) -> dict[str, Any]:
    return {"kind": kind, "name": name, "finding": finding, "champion": 0.9, "challenger": 0.6, "judged": judged}


def under(rules: Policy, champion: Any, challenger: Any, **more: Any) -> policy.Ruling:
    return policy.against_champion(figures(champion, challenger, **({"rules": asdict(rules)} | more)), rules)


def test_a_model_that_is_ahead_and_surely_not_worse_is_promoted_and_the_words_tell_the_figures() -> None:
    ruling = under(Policy(), *BETTER)
    assert ruling.verdict == "promote"
    compared = "94.4% against 87.0% on 700 holdout samples: 61 gained, 9 lost"
    assert ruling.reason == f"{compared}; ahead of the champion (v5) even at worst"


def test_what_is_ahead_by_little_is_promoted_where_the_samples_exclude_a_loss_and_not_where_they_do_not() -> None:
    many = under(Policy(), *pair(105, 100, 9000, 1000))
    assert many.verdict == "promote"
    assert "; at worst 0.2 points behind the champion (v5)" in many.reason
    few = under(Policy(), *pair(11, 8, 170, 11))
    assert few.verdict == "reject"
    assert few.reason.startswith(
        "ahead, but 200 samples cannot exclude that it is worse than the champion (v5) by more than 1 point (it may be"
    )
    assert under(Policy(review="borderline"), *pair(11, 8, 170, 11)).verdict == "needs_person"
    assert under(Policy(margin=0.05), *pair(11, 8, 170, 11)).verdict == "promote"
    assert under(Policy(), *pair(100, 105, 9000, 1000)).reason.startswith("not better: ")


def test_of_equal_answers_the_better_probabilities_decide() -> None:
    champion, challenger = pair(20, 20, 9000, 900)
    even = differences(champion, challenger)
    rng = np.random.default_rng(1)
    for brier, verdict in ((0.004, "promote"), (-0.004, "reject")):
        ahead = asdict(lead(even, brier + rng.normal(0, 0.05, len(champion)), 0.05))
        overrides = {"lead": ahead, "incumbents": [{"version": 5, "role": "champion"} | ahead]}
        assert under(Policy(), champion, challenger, **overrides).verdict == verdict


def test_small_losses_do_not_add_up_since_the_best_so_far_is_compared_with_too() -> None:
    champion, challenger = pair(300, 200, 9000, 500)
    ahead = figures(champion, challenger)["lead"]
    behind = figures(*pair(200, 320, 9000, 480))["lead"]
    rows = [{"version": 5, "role": "champion"} | ahead, {"version": 2, "role": "best so far"} | behind]
    ruling = under(Policy(), champion, challenger, incumbents=rows)
    assert ruling.verdict == "reject"
    assert ruling.reason.startswith("ahead, but it is worse than the best so far (v2) by 1.2 points: ")
    proven = under(PROVEN, champion, challenger, incumbents=rows)
    assert proven.verdict == "reject"
    assert proven.reason.startswith("it may be worse than the best so far (v2) by ")


def test_under_the_rule_proven_a_worse_one_and_an_equal_one_are_rejected() -> None:
    assert under(PROVEN, *BETTER).reason.endswith("61 gained, 9 lost, p < 0.0001")
    for champion, challenger in (BETTER[::-1], pair(20, 20, 600)):
        ruling = under(PROVEN, champion, challenger)
        assert ruling.verdict == "reject"
        assert ruling.reason.startswith("not provably better: ")


@pytest.mark.parametrize(("review", "verdict"), [("never", "reject"), ("borderline", "needs_person")])
def test_what_one_look_would_prove_and_so_many_looks_do_not(review: Any, verdict: str) -> None:
    rules = Policy(rule="proven", review=review)
    ruling = policy.against_champion(figures(*pair(30, 15, 600), level=0.001, rules=asdict(rules)), rules)
    assert ruling.verdict == verdict
    assert "not beyond what chance does in so many decisions (level 0.001)" in ruling.reason


@pytest.mark.parametrize("rule", ["better", "proven"])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"groups": [row("class", "dog", "worse"), row("drop", "d", "fine")]}, "worse on class dog (60% after 90%); "),
        ({"calibration_rise": 0.1, "calibration_rise_least": 0.06}, "its confidence is off by 10.0% more"),
        ({"lost_classes": ["cat"]}, "it does not know class cat any more; "),
        ({"served": {"milliseconds": 9.5, "bytes": 10}}, "an image takes 9.50 ms, at most 5 are allowed; "),
        ({"served": {"milliseconds": 1.0, "bytes": 3000}}, "it has 3000 bytes, at most 2000 are allowed; "),
    ],
)
def test_whatever_the_gain_some_harms_forbid_it(rule: Any, more: dict[str, Any], words: str) -> None:
    rules = Policy(rule=rule, max_milliseconds=5, max_bytes=2000, review="always")
    ruling = under(rules, *BETTER, **more)
    assert ruling.verdict == "reject", "no person is asked about a proven harm"
    assert ruling.reason.startswith(words)
    assert under(rules, *BETTER).verdict == "needs_person"


def test_a_rise_of_the_calibration_error_that_is_not_sure_is_tolerated() -> None:
    assert under(Policy(), *BETTER, calibration_rise=0.1, calibration_rise_least=0.04).verdict == "promote"


@pytest.mark.parametrize(
    "more", [{"groups": [row("brightness", "dark", "unclear")]}, {"new_classes": ["bird"]}], ids=["unclear", "new"]
)
def test_doubts_are_a_persons_where_persons_are_asked(more: dict[str, Any]) -> None:
    asked = under(Policy(review="borderline"), *BETTER, **more)
    assert asked.verdict == "needs_person"
    assert asked.reason.startswith(("unclear on brightness dark (60% after 90%); ", "new class bird; "))
    assert under(Policy(), *BETTER, **more).verdict == "promote"
    assert under(Policy(review="borderline"), *BETTER).verdict == "promote"


def test_harm_on_corrupted_images_is_a_warning_unless_the_settings_say_otherwise() -> None:
    def harmed(*, judged: bool) -> dict[str, Any]:
        return {"groups": [row("corruption", "dim", "worse", judged=judged)]}

    warned = under(Policy(), *BETTER, **harmed(judged=False))
    assert warned.verdict == "promote"
    assert "warning: worse on corruption dim (60% after 90%)" in warned.reason
    asking = Policy(corruptions="ask")
    assert under(asking, *BETTER, **harmed(judged=False)).verdict == "needs_person"
    veto = under(Policy(corruptions="veto"), *BETTER, **harmed(judged=True))
    assert (veto.verdict, veto.reason.startswith("worse on corruption dim")) == ("reject", True)


def test_the_reason_says_first_that_new_classes_stay_unknown() -> None:
    names = [f"breed {i}" for i in range(120)]
    unknown = {"new_classes": names, "new_class_answers": {"samples": 207, "right": 2, "sampled": 100, "unknown": 100}}
    assert under(Policy(), *pair(40, 43, 400), **unknown).reason.startswith(
        "not better: the 120 new classes stay unknown, 2 of 207 samples right; "
    )
    known = {"new_classes": ["bird"], "new_class_answers": {"samples": 50, "right": 41, "sampled": 1, "unknown": 0}}
    assert under(Policy(), *BETTER, **known).reason.startswith("the new class bird: 41 of 50 samples right; ")
    assert "breed 0, breed 1, breed 2, breed 3, breed 4 and 115 more" in policy.listed(names)


def test_the_reason_says_how_many_new_classes_stay_unknown_or_were_not_seen() -> None:
    names = ["emu", "owl", "yak"]
    partly = {"new_classes": names, "new_class_answers": {"samples": 60, "right": 18, "sampled": 3, "unknown": 2}}
    assert under(Policy(), *BETTER, **partly).reason.startswith(
        "the 3 new classes: 18 of 60 samples right, but 2 of 3 stay unknown; "
    )
    assert under(Policy(), *BETTER, new_classes=["emu"]).reason.startswith(
        "the new class emu has no holdout samples yet; "
    )


def test_probabilities_that_are_surely_worse_are_told_as_such() -> None:
    champion, challenger = pair(400, 200, 9000, 400)
    of, noise = differences(champion, challenger), np.random.default_rng(2).normal(0, 0.1, len(champion))
    for brier, words in (
        (
            -0.05,
            "ahead, but its probabilities are worse than those of the champion (v5) by 4.9 points by the Brier score: ",
        ),
        (
            -0.009,
            "samples cannot exclude that its probabilities are worse than those of the champion (v5) by more than 1",
        ),
    ):
        ahead = asdict(lead(of, brier + noise, 0.05))
        ruling = under(
            Policy(), champion, challenger, lead=ahead, incumbents=[{"version": 5, "role": "champion"} | ahead]
        )
        assert ruling.verdict == "reject"
        assert words in ruling.reason


def test_where_nothing_can_be_compared_that_is_said() -> None:
    nothing = {"version": 5, "role": "champion"} | asdict(lead(differences(*pair(0, 0, 0)), None, 0.05))
    assert under(Policy(), *BETTER, incumbents=[nothing]).reason.endswith(
        "no sample is of a class that the champion (v5) knows"
    )


def test_another_metric_and_fresh_samples_are_told() -> None:
    statistics = figures(*BETTER, rules=asdict(PROVEN))
    statistics["budget"] |= {"metric": "recall:dog", "metric_words": "recall of dog", "samples": 250}
    reason = policy.against_champion(statistics, PROVEN).reason
    assert "recall of dog 0.944 against 0.870, tested on the 250 fresh ones, p < 0.0001" in reason


@pytest.mark.parametrize("samples", [0, 1, 29])
def test_a_tiny_holdout_decides_nothing(samples: int) -> None:
    ruling = policy.first_model(np.full(samples, True), np.zeros(samples, np.int64), SERVED, Policy())
    assert ruling.verdict == "reject"
    assert f"has {samples} samples" in ruling.reason


def test_a_first_model_must_beat_the_commonest_class_and_the_budgets() -> None:
    labels = np.repeat([0, 1], [90, 10])
    right = np.full(100, True)
    assert policy.first_model(labels == 0, labels, SERVED, Policy()).verdict == "reject"
    assert policy.first_model(right, labels, SERVED, Policy()).verdict == "promote"
    assert policy.first_model(right, labels, SERVED, Policy(max_bytes=999)).verdict == "reject"
    assert policy.first_model(right, labels, SERVED, Policy(review="always")).verdict == "needs_person"


def changed(share: float, champion: float, challenger: float) -> dict[str, Any]:
    """The figures of `share` of the holdout relabelled by a drop; accuracies by the new labels."""
    classes = [{"before": "boot", "after": "sandal", "changed": 30}]
    row = {"by": "drop monday", "changed": 30, "annotators": ["x"], "classes": classes}
    return UNCHANGED | {
        "changed": 30,
        "share": share,
        "by": [row],
        "right_before": {"champion": 28, "challenger": 1},
        "right_after": {"champion": 1, "challenger": 27},
        "accuracy_after": {"champion": champion, "challenger": challenger},
    }


@pytest.mark.parametrize(
    ("share", "champion", "challenger", "better", "worse", "verdict"),
    [
        (0.1, 0.75, 0.85, 5, 90, "needs_person"),  # poison, or a correction of a class: ahead by the new labels only
        (0.1, 0.85, 0.90, 90, 5, "needs_person"),  # ahead by both
        (0.1, 0.85, 0.80, 90, 5, "needs_person"),  # ahead by the old labels only
        (0.1, 0.85, 0.80, 5, 90, "reject"),  # ahead by neither
        (0.02, 0.75, 0.85, 5, 90, "reject"),
        (0.02, 0.85, 0.90, 90, 5, "promote"),
    ],
)
def test_many_changed_labels_of_the_holdout_ask_a_person(
    share: float, champion: float, challenger: float, better: int, worse: int, verdict: str
) -> None:
    compared = figures(*pair(better, worse, 900), relabelled=changed(share, champion, challenger))
    ruling = policy.against_champion(compared, Policy())
    assert ruling.verdict == verdict
    assert "drop monday changed 30 of the holdout's labels (30 boot to sandal), which count as before" in ruling.reason
    assert "the champion has 28 right by the old labels and 1 by the new, the challenger 1 and 27" in ruling.reason
    assert ("10.0% of the holdout's labels were changed, more than 2.0%" in ruling.reason) == (
        verdict == "needs_person"
    )


def test_no_question_about_labels_makes_a_model_acceptable_that_is_too_large_or_forgot_a_class() -> None:
    for more in ({"served": {"milliseconds": 9.0, "bytes": 1}}, {"lost_classes": ["boot"]}):
        compared = figures(*pair(90, 5, 900), relabelled=changed(0.1, 0.8, 0.9), **more)
        assert policy.against_champion(compared, Policy(max_milliseconds=5)).verdict == "reject"


def test_near_copies_are_told_apart_from_groups() -> None:
    line = policy.compared_with(figures(*pair(5, 5, 90), holdout_samples=130))
    assert "on 100 holdout groups of near copies (130 samples)" in line
