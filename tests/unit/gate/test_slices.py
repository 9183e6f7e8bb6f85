"""Groups that got worse, found without crying wolf."""

import numpy as np

from ml.gate import slices
from ml.gate.slices import Group
from tests.unit.gate.figures import pair


def finding(*groups: Group) -> list[str]:
    return [row["finding"] for row in slices.judge(groups, margin=0.05, alpha=0.05)]


def test_samples_are_grouped_by_name_and_nameless_ones_left_out() -> None:
    champion, challenger = np.asarray([True, False, True, True]), np.asarray([True, True, False, True])
    found = slices.group("drop", ["b", "a", "", "b"], champion, challenger)
    assert [(g.name, len(g.champion)) for g in found] == [("a", 1), ("b", 2)]
    assert found[0].challenger.tolist() == [True]


def test_bands_are_thirds() -> None:
    names, counts = np.unique(slices.bands(np.arange(300.0)), return_counts=True)
    assert (names.tolist(), counts.tolist()) == (["bright", "dark", "medium"], [100, 100, 100])
    assert set(slices.bands(np.full(9, 7.0))) == {"dark"}, "all alike: one group"


def test_a_harm_is_named_a_gain_is_not() -> None:
    harmed = Group("class", "dog", *pair(0, 40, 160))
    gained = Group("class", "cat", *pair(40, 0, 160))
    assert finding(harmed, gained) == ["worse", "fine"]
    (row, _) = slices.judge([harmed, gained], 0.05, 0.05)
    assert (row["samples"], row["champion"], row["challenger"]) == (200, 1.0, 0.8)


def test_within_the_margin_is_fine_beyond_it_on_few_samples_unclear_and_on_very_few_nothing() -> None:
    assert finding(Group("class", "a", *pair(0, 60, 1940))) == ["fine"]
    assert finding(Group("class", "a", *pair(0, 3, 27))) == ["unclear"]
    assert finding(Group("class", "a", *pair(0, 3, 4))) == ["fine"]


def test_equal_models_are_seldom_said_to_harm_any_of_many_groups() -> None:
    """One promise over all of them: Holm's correction."""
    generator, alarms = np.random.default_rng(6), 0
    for _ in range(300):
        answers = generator.random((2, 10, 40)) < 0.85
        groups = [Group("class", str(i), answers[0, i], answers[1, i]) for i in range(10)]
        alarms += "worse" in finding(*groups)
    assert alarms <= 15 + 3 * 4


def test_no_groups_no_rows() -> None:
    assert slices.judge([], 0.05, 0.05) == []
