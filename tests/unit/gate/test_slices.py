"""Groups that got worse, found without crying wolf."""

import numpy as np
import pytest

from ml.gate import slices
from ml.gate.slices import Group, Tolerance
from tests.unit.gate.figures import pair

TOLERANCE = Tolerance(margin=0.01, group_margin=0.05, classes=10, alpha=0.05)


def finding(*groups: Group) -> list[str]:
    return [group.finding for group in slices.evaluate_groups(groups, TOLERANCE)]


def test_samples_are_grouped_by_name_and_nameless_ones_left_out() -> None:
    champion, challenger = np.asarray([True, False, True, True]), np.asarray([True, True, False, True])
    groups = slices.group("drop", ["b", "a", "", "b"], champion, challenger, {"a": 0.7, "b": 0.1})
    assert [(g.name, len(g.champion), g.weight) for g in groups] == [("a", 1, 0.7), ("b", 2, 0.5)]
    assert groups[0].challenger.tolist() == [True]


def test_bands_are_thirds() -> None:
    names, counts = np.unique(slices.bands(np.arange(300.0)), return_counts=True)
    assert (names.tolist(), counts.tolist()) == (["bright", "dark", "medium"], [100, 100, 100])
    assert set(slices.bands(np.full(9, 7.0))) == {"dark"}, "all alike: one group"


def test_a_harm_is_named_a_gain_is_not() -> None:
    harmed = Group("class", "dog", *pair(0, 60, 140), weight=0.1)
    gained = Group("class", "cat", *pair(40, 0, 160), weight=0.1)
    assert finding(harmed, gained) == ["worse", "fine"]
    (dog, _) = slices.evaluate_groups([harmed, gained], TOLERANCE)
    assert (dog.samples, dog.champion, dog.challenger, dog.tolerated) == (200, 1.0, 0.7, 0.1)


def test_a_large_group_may_lose_little_and_a_small_one_more_but_never_half() -> None:
    answers = pair(0, 0, 80, 20)
    allowed = [TOLERANCE.allowed_loss(Group("class", "a", *answers, weight=w)) for w in (1.0, 0.2, 0.1, 0.05, 0.001)]
    assert allowed == pytest.approx([0.05, 0.05, 0.1, 0.2, 0.4])


def test_a_lost_class_is_found_whatever_its_weight() -> None:
    """Also among many others, and with thirty samples only."""
    lost = Group("class", "rare", *pair(0, 27, 0, 3), weight=0.001)
    others = [Group("class", str(i), *pair(1, 1, 15, 3), weight=0.05) for i in range(19)]
    assert finding(lost, *others) == ["worse"] + ["fine"] * 19


def test_where_the_champion_was_of_no_use_nothing_can_be_lost() -> None:
    """64 dimmed images, of which 12 and then none are right; guessing gets a tenth."""
    assert finding(Group("corruption", "dim", *pair(0, 12, 0, 52), weight=1.0)) == ["useless"]
    assert Tolerance(0.01, 0.05, 2, 0.05).useful == 0.75
    assert Tolerance(0.01, 0.05, 120, 0.05).useful == pytest.approx(2 / 120)


def test_within_what_is_tolerated_is_fine_beyond_it_on_few_samples_unclear_and_on_very_few_nothing() -> None:
    assert finding(Group("class", "a", *pair(0, 60, 1940), weight=0.1)) == ["fine"]
    assert finding(Group("class", "a", *pair(0, 7, 23), weight=0.1)) == ["unclear"]
    assert finding(Group("class", "a", *pair(0, 3, 4), weight=0.1)) == ["fine"]


def test_what_is_only_reported_has_no_part_in_the_correction() -> None:
    reported = [Group("corruption", str(i), *pair(0, 40, 24), weight=1.0, judged=False) for i in range(4)]
    compared = slices.evaluate_groups(reported, TOLERANCE)
    assert {(group.finding, group.judged) for group in compared} == {("worse", False)}


def test_equal_models_are_seldom_said_to_harm_any_of_many_groups() -> None:
    """One promise over all of them: Holm's correction."""
    generator, alarms = np.random.default_rng(6), 0
    for _ in range(300):
        answers = generator.random((2, 10, 40)) < 0.85
        groups = [Group("class", str(i), answers[0, i], answers[1, i], 0.1) for i in range(10)]
        alarms += "worse" in finding(*groups)
    assert alarms <= 15


def test_no_groups_no_rows() -> None:
    assert slices.evaluate_groups([], TOLERANCE) == []
