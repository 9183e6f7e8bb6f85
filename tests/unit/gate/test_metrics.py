"""What must get better, and the paired tests of it."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from ml.errors import InvalidInputError
from ml.gate import metrics, statistics
from ml.gate.metrics import Gain, Metric, PerSample

CLASSES = ("cat", "dog", "eel")


def compare(name: str, truth: list[int], before: list[int], after: list[int], **costs: dict[str, float]) -> Gain:
    predictions = (np.asarray(before, np.int64), np.asarray(after, np.int64))
    return metrics.gain(Metric(name, costs), np.asarray(truth, np.int64), *predictions, CLASSES, 5)


def answers(truth: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Right in `share` of the cases, else any class."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random(len(truth)) < share, truth, generator.integers(0, 3, len(truth)))


def test_accuracy_is_the_exact_mcnemar_test() -> None:
    gain = compare("accuracy", [0] * 10, [1] * 6 + [0] * 4, [0] * 9 + [-1])
    assert (gain.champion, gain.challenger, gain.difference) == (0.4, 0.9, pytest.approx(0.5))
    assert gain.p_value == statistics.mcnemar(6, 1)


def test_recall_looks_at_one_class_only() -> None:
    gain = compare("recall:dog", [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1], [2, 2, 1, 1, 0, 1])
    assert (gain.champion, gain.challenger, gain.p_value) == (0.25, 0.75, statistics.mcnemar(2, 0))
    assert compare("recall:eel", [0], [1], [0]) == Gain(0.0, 0.0, 0.0, 1.0), "no sample of it"


def test_macro_f1_is_the_mean_over_the_classes_that_are_there() -> None:
    truth = np.random.default_rng(0).integers(0, 3, 200)
    given = answers(truth, 0.6, 1)
    assert metrics.macro_f1(truth, given, 3) == pytest.approx(f1_score(truth, given, average="macro"))
    assert metrics.macro_f1(np.zeros(4, np.int64), np.asarray([0, 0, -1, 1]), 3) == pytest.approx(2 * 2 / (2 + 4))


def test_costs_are_negated_so_that_more_is_better_and_what_is_no_class_costs_one() -> None:
    gain = compare("cost", [0, 0, 1], [1, 1, -1], [0, 1, 1], cat={"dog": 5})
    assert (gain.champion, gain.challenger) == (pytest.approx(-11 / 3), pytest.approx(-5 / 3))


def test_drawing_agrees_with_trying_every_swap() -> None:
    truth, before, after = [0, 1, 2, 0, 1, 2, 0, 1], [1, 0, 0, 1, 1, 1, 0, 0], [0, 1, 2, 0, 0, 2, 0, 1]
    gain = compare("macro_f1", truth, before, after)
    t, a, b = (np.asarray(x) for x in (truth, before, after))
    differences = []
    for swaps in product((False, True), repeat=len(t)):
        x, y = np.where(swaps, b, a), np.where(swaps, a, b)
        differences.append(metrics.macro_f1(t, y, 3) - metrics.macro_f1(t, x, 3))
    assert gain.difference == pytest.approx(differences[0])
    assert gain.p_value == pytest.approx(np.mean(np.asarray(differences) >= differences[0] - 1e-9), abs=0.01)


@pytest.mark.parametrize("name", ["macro_f1", "cost"])
def test_equal_models_seldom_look_better(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_ROUNDS", 400)
    truth = np.random.default_rng(2).integers(0, 3, 150)
    rare = 0
    for seed in range(300):
        gain = metrics.gain(
            Metric(name, {}), truth, answers(truth, 0.8, 2 * seed), answers(truth, 0.8, 2 * seed + 1), CLASSES, seed
        )
        rare += gain.p_value <= 0.05
    assert rare <= 15 + 3 * 4


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "cost", "recall:cat"])
def test_a_better_model_is_seen_and_the_same_one_is_not(name: str) -> None:
    truth = np.random.default_rng(3).integers(0, 3, 400)
    before, after = answers(truth, 0.6, 4), answers(truth, 0.9, 5)
    assert metrics.gain(Metric(name, {}), truth, before, after, CLASSES, 0).p_value < 0.01
    assert metrics.gain(Metric(name, {}), truth, before, before, CLASSES, 0).p_value == 1.0


def test_a_class_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidInputError, match="'cow'"):
        compare("recall:cow", [0], [0], [0])
    with pytest.raises(InvalidInputError, match="'cow'"):
        compare("cost", [0], [0], [0], cat={"cow": 2})


def per_sample(
    name: str, truth: list[int], before: list[int], after: list[int], **costs: dict[str, float]
) -> PerSample:
    predictions = (np.asarray(before, np.int64), np.asarray(after, np.int64))
    return metrics.per_sample(Metric(name, costs), np.asarray(truth, np.int64), *predictions, CLASSES)


@pytest.mark.parametrize("name", ["accuracy", "recall:dog", "cost", "macro_f1"])
def test_the_differences_of_single_samples_have_the_gain_as_their_mean(name: str) -> None:
    generator = np.random.default_rng(8)
    truth = generator.integers(0, 3, 400)
    before, after = answers(truth, 0.6, 1), answers(truth, 0.75, 2)
    costs: dict[str, Any] = {"cat": {"dog": 5.0}} if name == "cost" else {}
    arguments = (truth.tolist(), before.tolist(), after.tolist())
    of = per_sample(name, *arguments, **costs)
    dearest = 5 if name == "cost" else 1
    assert dearest * of.differences.mean() == pytest.approx(compare(name, *arguments, **costs).difference, abs=1e-9)
    assert len(of.differences) == len(of.weights) == of.counted.sum()
    assert of.weights.mean() == pytest.approx(1)
    if name != "macro_f1":
        assert np.abs(of.differences).max() <= of.bound


def test_the_influence_on_macro_f1_tells_its_standard_error() -> None:
    """As many resamples of the samples do."""
    generator = np.random.default_rng(9)
    truth = generator.choice(3, 600, p=[0.7, 0.2, 0.1])
    before, after = answers(truth, 0.6, 1), answers(truth, 0.7, 2)
    of = per_sample("macro_f1", truth.tolist(), before.tolist(), after.tolist())
    drawn = [generator.integers(0, 600, 600) for _ in range(400)]
    gains = [metrics.macro_f1(truth[i], after[i], 3) - metrics.macro_f1(truth[i], before[i], 3) for i in drawn]
    assert of.differences.std() / np.sqrt(600) == pytest.approx(np.std(gains), rel=0.15)
