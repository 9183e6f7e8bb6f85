"""Figures of a trained network, counted by hand."""

import numpy as np
import pytest

from ml.datasets.versions import DatasetVersion
from ml.models.bundle import Reduced
from ml.training.data.plan import Plan, RefreshHistory
from ml.training.loop.evaluation import Evaluation, as_csv
from ml.training.loop.recipe import Recipe
from ml.training.tracking import card
from tests.unit.training.test_fit_and_export import info

CLASSES = ("ant", "bee", "cow")
TOLD = Evaluation(
    truth=np.asarray([0, 0, 0, 1, 1]),
    probabilities=np.asarray([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.3, 0.7, 0], [0.4, 0.6, 0], [0.45, 0.55, 0]], np.float32),
    classes=CLASSES,
    trained=np.asarray([7, 5, 0]),
)
VERSION = DatasetVersion("v" * 64, 4, None, CLASSES, 12, 5, 3, "a test")
PLAN = Plan("full", "asked for", 12, 0, RefreshHistory(), np.arange(12))
RECIPE = Recipe(epochs=6, patience=5, batch_size=32, learning_rate=2e-3, seed=3)


def test_figures_of_all_and_by_class() -> None:
    assert TOLD.accuracy == pytest.approx(3 / 5)
    assert TOLD.loss == pytest.approx(-np.log([0.9, 0.2, 0.3, 0.6, 0.55]).mean(), rel=1e-6)
    ant, bee, cow = TOLD.by_class()
    assert (ant.trained, ant.judged, ant.answered, ant.mostly_taken_for) == (7, 3, 1, "bee")
    assert (ant.precision, ant.recall, ant.f1) == (1.0, pytest.approx(1 / 3, abs=1e-4), 0.5)
    assert (bee.precision, bee.recall, bee.mostly_taken_for) == (0.5, 1.0, "")
    assert (cow.precision, cow.recall, cow.f1) == (None, None, None)
    assert as_csv([cow]).splitlines()[1] == "cow,0,0,0,,,,"


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    sure = np.tile(np.asarray([[0.7, 0.3, 0]], np.float32), (10, 1))
    evaluation = Evaluation(np.asarray([0] * 4 + [1] * 6), sure, CLASSES, np.zeros(3, int))
    assert evaluation.calibration_error == pytest.approx(0.3, abs=1e-6)  # said 70 %, right on 40 %


def test_the_worst_are_wrong_and_the_least_likely_first() -> None:
    assert TOLD.worst(9).tolist() == [1, 2]
    assert TOLD.worst(1).tolist() == [1]


def test_the_card_tells_figures_data_and_making() -> None:
    where = {"measured_on": "openvino on avx512", "proven_on": ("openvino on avx512", "onnxruntime on avx512")}
    small = Reduced(samples=5, accuracy_loss=0.004, agreement=0.99, speedup=1.5, **where)
    text = card.text(info(labels=CLASSES, int8=small), VERSION, PLAN, RECIPE, TOLD, {"pretrained": "a.pth"})
    for words in (
        "accuracy 60.0%",
        "| ant | 7 | 3 | 33.3% | 100.0% | bee |",
        "asked for",
        "a.pth",
        "1.5 times as fast by openvino on avx512, proven by openvino on avx512 and onnxruntime on avx512",
        "v" * 64,
    ):
        assert words in text
    assert "cow" not in text, "it was not judged"


def test_labels_cannot_break_the_card_and_many_are_cut() -> None:
    count = 400
    labels = tuple(f"a|b<i>\n{i}" for i in range(count))
    evaluation = Evaluation(np.arange(count), np.eye(count, dtype=np.float32), labels, np.ones(count, int))
    text = card.text(info(labels=labels), VERSION, PLAN, RECIPE, evaluation, {"long": "x" * 9000})
    assert "12 classes found least, of 400" in text
    rows = [line for line in text.splitlines() if line.startswith("| a")]
    assert len(rows) == 12
    assert all("a\\|b&lt;i>" in row for row in rows)
    assert len(card.short(text)) <= 5000
    assert "model-card.md" in card.short(text)
    assert card.short("short") == "short"
