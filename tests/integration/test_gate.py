"""Decisions on a real dataset version, over models of known worth: linear ones, fitted to more or fewer digits."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import orjson
import pytest
from sqlalchemy import func

from ml.catalog import cycles, decisions, holdout_comparisons
from ml.catalog.decisions import Decision
from ml.catalog.tables import decisions as decisions_table
from ml.datasets import classes, holdout, versions
from ml.errors import IntegrityError, NotFoundError
from ml.gate.decide import decide
from ml.ingest import ingest
from ml.models import bundle
from ml.release.release import release
from tests.gates import DIGITS, Gate
from tests.pictures import digit_files
from tests.pictures import upload as upload_drop


def test_a_first_model_is_promoted_recorded_shown_and_decided_once(gate: Gate) -> None:
    decision = gate.decide(gate.model(1))
    assert (decision.verdict, decision.champion_version, decision.actor) == ("promote", None, "gate")
    assert decision.reason.startswith("first model: ")
    figures = decision.statistics
    version = versions.get(gate.ctx, gate.dataset)
    assert figures["holdout"] == version.holdout == sum(row["samples"] for row in figures["groups"])
    low, high = figures["challenger_interval"]
    assert low < figures["challenger_accuracy"] < high
    report = orjson.loads(gate.ctx.store.get(f"decisions/{decision.id}/report.json"))
    assert (report["verdict"], report["dataset_version"]) == ("promote", gate.dataset)
    assert decision.report_key is not None
    assert b"May version 1 answer?" in gate.ctx.store.get(decision.report_key)
    tags = gate.registry.tags(1)
    assert (tags["decision"], tags["verdict"], tags["reason"]) == (decision.id, "promote", decision.reason)
    row = gate.cycle(1)
    assert (row.decision_id, row.verdict, row.finished_at) == (decision.id, "promote", None)
    assert "gate" in row.seconds
    again = gate.decide(1)
    first, second = (orjson.dumps(vars(d), option=orjson.OPT_SORT_KEYS) for d in (decision, again))
    assert first == second
    assert gate.count(decisions_table) == 1
    (part,) = holdout.parts(gate.ctx)
    assert (part.name, part.samples, part.uses) == ("growing", version.holdout, 1), "asked twice, it was used once"


def test_a_better_model_wins_an_equal_and_a_worse_one_do_not(gate: Gate) -> None:
    gate.make_live(gate.model(1, fitted_to=40))
    better = gate.decide(gate.model(2))
    figures = better.statistics
    assert better.verdict == "promote"
    assert figures["p_value"] < 0.05
    assert figures["challenger_only_right"] > figures["champion_only_right"]
    low, high = figures["difference_interval"]
    assert 0 < low < figures["difference"] < high
    assert figures["difference"] == pytest.approx(figures["challenger_accuracy"] - figures["champion_accuracy"])
    keys = {"holdout", "champion_interval", "challenger_interval", "challenger_only_right", "champion_only_right"}
    assert keys <= figures.keys()
    gate.make_live(2)
    equal = gate.decide(gate.model(3, seed=1))
    worse = gate.decide(gate.model(4, fitted_to=40))
    for decision in (equal, worse):
        assert decision.verdict == "reject"
        assert gate.cycle(decision.model_version).finished_at is not None


def test_a_class_the_challenger_never_heard_of_is_answered_wrong_and_named(gate: Gate) -> None:
    gate.make_live(gate.model(1, labels=tuple("3456789")))
    decision = gate.decide(gate.model(2, labels=tuple("012345678")))
    row = group(decision, "class", "9")
    assert (row["challenger"], row["finding"]) == (0, "worse")
    assert decision.statistics["lost_classes"] == ["9"]
    assert decision.statistics["challenger_accuracy"] > decision.statistics["champion_accuracy"], "better over all"
    assert decision.verdict == "reject"
    assert "worse on class 9" in decision.reason
    assert "it does not know class 9 any more" in decision.reason


def test_a_new_class_counts_for_the_challenger_that_knows_it(gate: Gate) -> None:
    gate.make_live(gate.model(1, labels=tuple("0123456")))
    decision = gate.decide(gate.model(2))
    assert decision.verdict == "promote"
    assert decision.statistics["new_classes"] == ["7", "8", "9"]


def test_a_champion_that_says_a_class_by_its_old_name_is_right(gate: Gate) -> None:
    gate.make_live(gate.model(1))
    before = gate.decide(gate.model(2, seed=1)).statistics["champion_accuracy"]
    gate.dataset = classes.rename(gate.ctx, "7", "seven", actor="ann", reason="words").version
    decision = gate.decide(gate.model(3, labels=(*DIGITS[:7], "seven", *DIGITS[8:]), seed=1))
    assert decision.statistics["champion_accuracy"] == before
    assert (decision.statistics["new_classes"], decision.statistics["lost_classes"]) == ([], [])
    assert group(decision, "class", "seven")["champion"] > 0


def test_whatever_counts_is_compared_and_told(gate: Gate) -> None:
    gate.make_live(gate.model(1, fitted_to=100))
    newer = ingest(gate.ctx, upload_drop(gate.ctx, "two", digit_files(700, 1000))).version
    assert newer is not None
    gate.dataset = newer
    figures = gate.decide(gate.model(2)).statistics
    kinds: dict[str, list[str]] = {}
    for row in figures["groups"]:
        kinds.setdefault(row["kind"], []).append(row["name"])
    assert kinds["class"] == list(DIGITS)
    assert kinds["brightness"] == ["bright", "dark", "medium"]
    assert len(kinds["drop"]) == 2
    assert kinds["age"] == ["new", "old"], "what the champion was trained on, and what it was not"
    assert kinds["corruption"] == ["noise", "blur", "dim", "jpeg"]
    old, new = (group_of(figures, "age", name)["samples"] for name in ("old", "new"))
    assert old + new == figures["holdout"]
    assert figures["served"]["milliseconds"] > 0
    assert figures["served"]["bytes"] > 1000
    assert 0 <= figures["challenger_calibration_error"] <= 1
    assert sum(b["samples"] for b in figures["champion_calibration"]) == figures["holdout"]
    tags = gate.registry.tags(2)
    assert float(tags["gate_level"]) == figures["budget"]["level"]
    assert tags["gate_decision_number"] == "1"


def test_each_look_at_the_holdout_is_stricter_and_a_promotion_leaves_fresh_samples(
    make_gate: Callable[..., Gate],
) -> None:
    gate = make_gate(300, gate_margin=0.3)
    gate.make_live(gate.model(1, fitted_to=40))
    first = gate.decide(gate.model(2)).statistics["budget"]
    gate.make_live(2)
    second = gate.decide(gate.model(3, seed=1)).statistics["budget"]
    assert (first["number"], second["number"], second["looks_before"], second["events_before"]) == (1, 2, 1, 1)
    assert second["level"] < first["level"] / 2, "a promotion has told something"
    assert [look.event for look in holdout_comparisons.all_comparisons(gate.ctx.engine)] == [True, False]
    gate.make_live(1)
    assert [gate.decide(gate.model(v, seed=v)).verdict for v in (5, 6, 7, 8)] == ["promote"] * 4
    two = ingest(gate.ctx, upload_drop(gate.ctx, "two", digit_files(300, 1700)))
    assert two.version is not None
    gate.dataset = two.version
    third = gate.decide(gate.model(4, fitted_to=900, seed=2)).statistics
    spent = third["budget"]
    assert (spent["after"], spent["looks_before"], spent["events_before"]) == (6, 0, 0), "only fresh ones"
    of_two = group_of(third, "drop", two.drop_id)["samples"]
    assert 0.9 * of_two < spent["samples"] <= of_two, "near duplicates of old ones are not fresh"
    assert gate.decide(4).statistics["budget"] == spent, "asked again, nothing more is spent"
    assert len(holdout_comparisons.all_comparisons(gate.ctx.engine)) == 7


def test_the_best_champion_so_far_is_compared_with_until_a_person_decides_otherwise(gate: Gate) -> None:
    gate.make_live(gate.model(1))
    first = gate.decide(gate.model(2, fitted_to=60)).statistics
    assert (first["best_so_far"], [row["role"] for row in first["incumbents"]]) == (1, ["champion"])
    gate.make_live(2)  # as if small losses had added up
    decision = gate.decide(gate.model(3, fitted_to=90))
    champion, best = decision.statistics["incumbents"]
    assert (champion["version"], best["version"], best["role"]) == (2, 1, "best so far")
    assert champion["metric"] > 0 > best["metric"]
    assert (decision.verdict, decision.statistics["best_so_far"]) == ("reject", 1)
    assert "worse than the best so far (v1)" in decision.reason
    gate.break_bundle(1, "missing")
    shutil.rmtree(bundle.cache_folder(gate.ctx.settings.home))
    assert gate.decide(gate.model(4, fitted_to=90, seed=1)).statistics["best_so_far"] == 2, "it is gone"
    gate.promote_by_hand(2)
    after = gate.decide(gate.model(5, fitted_to=100)).statistics
    assert [row["version"] for row in after["incumbents"]] == [2], "a person's word begins anew"


def test_new_classes_are_told_apart_and_what_is_known_must_not_suffer_for_them(gate: Gate) -> None:
    gate.make_live(gate.model(1, labels=tuple("0123456")))
    decision = gate.decide(gate.model(2, fitted_to=450))
    figures = decision.statistics
    new = figures["new_class_answers"]
    assert new["right"] > 0.8 * new["samples"] > 0
    answers = f"{new['right']} of {new['samples']} samples right"
    mistaken = f"{new['mistaken']} of {new['known']} samples of other classes mistaken for one"
    assert decision.reason.startswith(f"the 3 new classes: {answers}, {mistaken}")
    (champion,) = figures["incumbents"]
    assert champion["samples"] == figures["holdout"] - new["samples"]
    assert figures["lead"]["metric"] > champion["metric"]


def test_a_new_class_that_resembles_a_known_one_is_learned(make_gate: Callable[..., Gate]) -> None:
    """Who learns to tell 8 from 3, 5 and 9 mistakes some of these for it; by that every new class was rejected."""
    gate = make_gate(1500, gate_margin=0.05)
    gate.make_live(gate.model(1, labels=tuple("359"), fitted_to=300))
    decision = gate.decide(gate.model(2, labels=tuple("3589"), fitted_to=400))
    assert decision.verdict == "promote", decision.reason
    counts = decision.statistics["new_class_answers"]
    assert counts["mistaken"] / counts["known"] > 0.05, "beyond the margin"


def test_a_new_class_that_swallows_a_known_one_is_harm(make_gate: Callable[..., Gate]) -> None:
    """All of class 9 is answered as 8, which the champion does not know; among the old classes it is right."""
    gate = make_gate(1500)
    gate.make_live(gate.model(1, labels=tuple("01234569")))
    decision = gate.decide(gate.model(2, labels=tuple("012345689"), mistaken=("9", "8")))
    assert decision.verdict == "reject"
    assert group(decision, "class", "9")["finding"] != "worse"
    assert "worse on class 9, mistaken for new classes (0% after" in decision.reason


def test_a_champion_that_knows_no_class_present_has_nothing_to_lose(gate: Gate) -> None:
    gate.make_live(gate.model(1, labels=("ape", "bee")))
    decision = gate.decide(gate.model(2))
    assert decision.verdict == "promote"
    assert decision.reason.endswith("no sample is of a class that the champion (v1) knows")
    spent = decision.statistics["budget"]
    assert (spent["samples"], spent["detectable"], spent["stated_margin"]) == (0, 1, 1), "nothing is known"


def test_answers_are_judged_anew_where_a_label_changed_since(gate: Gate) -> None:
    gate.make_live(gate.model(1))
    before = gate.decide(gate.model(2, seed=1)).statistics
    gate.dataset = classes.merge(gate.ctx, ["7", "1"], "one", actor="ann", reason="alike").version
    after = gate.decide(gate.model(3, labels=(*"0", "one", *"2345689"), seed=1)).statistics
    assert after["champion_accuracy"] >= before["champion_accuracy"]
    assert after["champion_brier"] <= before["champion_brier"] + 1e-6, "both of its outputs mean one class now"


def test_two_gates_at_once_take_numbers_one_after_the_other(gate: Gate) -> None:
    gate.make_live(gate.model(1))
    for version in (2, 3, 4):
        gate.model(version, seed=version)
        cycles.open_cycle(gate.ctx.engine, f"c{version}", "manual")
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(gate.decide, (2, 3, 4)))
    assert sorted(d.statistics["budget"]["number"] for d in results) == [1, 2, 3]
    assert len({d.statistics["budget"]["level"] for d in results}) == 3


def test_a_person_is_asked_where_the_settings_say_so_and_nothing_moves(
    make_gate: Callable[..., Gate],
) -> None:
    gate = make_gate(gate_review="always")
    decision = gate.decide(gate.model(1))
    assert decision.verdict == "needs_person"
    row = gate.cycle(1)
    assert (row.verdict, row.finished_at) == ("needs_person", None)
    assert release(gate.ctx, decision.id, cycle_id="c1") is None
    assert gate.registry.aliases() == {}


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_broken_champion_is_as_good_as_none_and_said(gate: Gate, how: str) -> None:
    gate.make_live(gate.model(1))
    gate.break_bundle(1, how)
    decision = gate.decide(gate.model(2))
    assert decision.verdict == "promote"
    assert decision.reason.startswith("champion 1 is broken")
    assert decision.champion_version == 1


@pytest.mark.parametrize("harm", ["deleted", "renamed", "alias moved"])
def test_whatever_people_do_in_the_registry_the_live_model_is_the_champion(gate: Gate, harm: str) -> None:
    """With the version deleted, a challenger was promoted as the first model over a better one that was live."""
    gate.make_live(gate.model(1))
    worse = gate.model(2, fitted_to=40)
    if harm == "deleted":
        gate.registry.remove(1)
    elif harm == "renamed":
        gate.registry.clear()  # the new registered model begins at 1 again
        worse = gate.registered(gate.model(1, fitted_to=40, seed=3))
    else:
        gate.registry.set_alias("champion", worse)
    decision = gate.decide(worse)
    assert (decision.verdict, decision.champion_version) == ("reject", 1)
    assert decision.statistics["champion_accuracy"] > decision.statistics["challenger_accuracy"]


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_broken_challenger_is_an_error_and_no_decision(gate: Gate, how: str) -> None:
    gate.model(1)
    gate.break_bundle(1, how)
    with pytest.raises((IntegrityError, NotFoundError)):
        gate.decide(1)
    assert gate.count(decisions_table) == 0


def test_a_version_without_a_dataset_is_named(gate: Gate) -> None:
    place = gate.registry.bundle(gate.model(1))
    gate.registry.add(2, place.prefix, place.digest)
    with pytest.raises(NotFoundError, match=r"version 2 .*dataset_version"):
        gate.decide(2)


def test_only_new_segments_are_scored(gate: Gate) -> None:
    gate.make_live(gate.model(1))
    gate.decide(gate.model(2))
    (old,) = gate.scored(1)
    marked = _all_wrong(gate.ctx.store.get(old))
    gate.ctx.store.put(old, marked)
    newer = ingest(gate.ctx, upload_drop(gate.ctx, "two", digit_files(700, 1000))).version
    assert newer is not None
    gate.dataset = newer
    decision = gate.decide(gate.model(3))
    new_holdout = versions.get(gate.ctx, newer).holdout
    assert len(gate.scored(1)) == 2
    assert gate.ctx.store.get(old) == marked, "the champion's old answers are taken as they are kept"
    assert decision.statistics["holdout"] == new_holdout
    assert decision.statistics["champion_accuracy"] < 0.5, "they count as the wrong ones they were made into"


@pytest.mark.parametrize("harm", ["gone", "cut off", "not npz"])
def test_answers_that_were_lost_are_given_anew(gate: Gate, harm: str) -> None:
    gate.make_live(gate.model(1))
    before = gate.decide(gate.model(2)).statistics["champion_accuracy"]
    (key,) = gate.scored(1)
    data = gate.ctx.store.get(key)
    if harm == "gone":
        gate.ctx.store.delete([key])
    else:
        gate.ctx.store.put(key, data[:-200] if harm == "cut off" else b"hello")
    assert gate.decide(gate.model(3, seed=1)).statistics["champion_accuracy"] == before
    assert gate.ctx.store.get(key) == data


def test_deciding_again_after_the_release_tells_the_same(gate: Gate) -> None:
    gate.make_live(gate.model(1, fitted_to=40))
    decision = gate.decide(gate.model(2))
    gate.make_live(2)
    before = gate.count(decisions_table)
    assert gate.decide(2).id == decision.id
    assert gate.cycle(2).verdict == "promote"
    assert gate.count(decisions_table) == before


def test_deciding_again_keeps_what_the_release_noted_in_the_cycle(gate: Gate) -> None:
    decision = gate.decide(gate.model(1))
    cycles.record(gate.ctx.engine, "c1", verdict="reject", reason="the release was undone", finished_at=func.now())
    assert gate.decide(1).id == decision.id
    assert gate.cycle(1).reason == "the release was undone"


def test_a_cycle_has_one_decision_however_often_its_task_is_cleared(gate: Gate) -> None:
    """Against a later champion the old challenger lost, which overwrote the verdict and spent the gate's budget."""
    gate.make_live(gate.model(1))
    decision = gate.decide(gate.model(2, fitted_to=100))
    assert decision.verdict == "reject"
    looks = len(holdout_comparisons.all_comparisons(gate.ctx.engine))
    gate.promote_by_hand(gate.model(3, fitted_to=30))
    assert (again := gate.decide(2)).id == decision.id
    assert again.verdict == "reject"
    assert gate.cycle(2).finished_at is not None
    assert len(holdout_comparisons.all_comparisons(gate.ctx.engine)) == looks


def test_a_second_decision_of_a_cycle_is_a_new_row(gate: Gate) -> None:
    gate.make_live(gate.model(1))
    first = gate.decide(gate.model(2, fitted_to=100))
    gate.promote_by_hand(gate.model(3, fitted_to=30))
    second = decide(gate.ctx, 2, cycle_id="c2", against_new_champion=True)
    assert (first.verdict, second.verdict, second.champion_version) == ("reject", "promote", 3)
    assert decisions.get(gate.ctx.engine, first.id).verdict == "reject", "it stays as it was"
    assert (gate.cycle(2).decision_id, gate.cycle(2).finished_at) == (second.id, None)


def test_a_holdout_that_is_too_small_promotes_nothing(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(gate_min_holdout=500)
    first = gate.decide(gate.model(1))
    assert first.verdict == "reject"
    assert "at least 500 are needed" in first.reason
    gate.make_live(gate.model(2, fitted_to=40))
    assert "at least 500 are needed" in gate.decide(gate.model(3)).reason
    assert holdout_comparisons.all_comparisons(gate.ctx.engine) == [], "nothing was looked at"


def group(decision: Decision, kind: str, name: str) -> dict[str, Any]:
    return group_of(decision.statistics, kind, name)


def group_of(figures: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    (row,) = [row for row in figures["groups"] if (row["kind"], row["name"]) == (kind, name)]
    return dict(row)


def _all_wrong(data: bytes) -> bytes:
    import io

    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        buffer = io.BytesIO()
        np.savez(buffer, **(dict(stored) | {"label": np.full(len(stored["label"]), "?")}))
    return buffer.getvalue()
