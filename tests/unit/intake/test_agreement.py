"""Cohen's kappa on digits, judged by the nearest mean picture instead of a trained model."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from ml.imaging import images
from ml.imaging.images import Limits, Pixels
from ml.intake.label_agreement import kappa, label_agreement
from ml.models.bundle import BundleInfo
from ml.models.model import Model
from tests.pictures import digits

LIMITS = Limits(1_000_000, 1_000_000)
INFO = BundleInfo(
    architecture="means",
    labels=tuple("0123456789"),
    image_size=8,
    channels=1,
    dataset_version="",
    run_id="",
    code_version="",
    seed=0,
    class_shares={},
    files={},
)


class NearestMean(Model):
    """Answers with the digit whose mean picture is nearest."""

    def __init__(self) -> None:
        super().__init__(INFO, None)  # type: ignore[arg-type]

    def predict(self, images: Pixels) -> NDArray[np.float32]:
        flat = images.reshape(len(images), -1).astype(np.float32)
        return -np.square(flat[:, None] - means()[None]).sum(-1)


def means() -> NDArray[np.float32]:
    pixels = np.stack([images.decode(data, 8, 1, LIMITS).ravel() for _, data in digits()[:500]]).astype(np.float32)
    labels = np.array([int(label) for label, _ in digits()[:500]])
    return np.stack([pixels[labels == i].mean(0) for i in range(10)])


def judge(rows: Sequence[dict[str, Any]], seed: str = "d-1") -> float | None:
    def fetch(chosen: Sequence[dict[str, Any]]) -> list[bytes]:
        return [digits()[int(r["key"])][1] if r["key"].isdigit() else b"gone" for r in chosen]

    return label_agreement(NearestMean(), rows, fetch, LIMITS, seed)


def rows(count: int = 300) -> list[dict[str, Any]]:
    return [{"key": str(500 + i), "label": digits()[500 + i][0]} for i in range(count)]


def test_right_labels_agree() -> None:
    assert (judge(rows()) or 0) > 0.7


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_labels_do_not(seed: int) -> None:
    labels = [r["label"] for r in rows()]
    random.Random(seed).shuffle(labels)
    assert abs(judge([r | {"label": label} for r, label in zip(rows(), labels, strict=True)]) or 0) < 0.1


def test_a_few_wrong_labels_are_no_shuffle() -> None:
    assert (judge([r | ({"label": "1"} if i % 4 == 0 else {}) for i, r in enumerate(rows())]) or 0) > 0.3


def test_too_little_to_judge_is_said_so() -> None:
    assert judge(rows(49)) is None
    assert judge([r | {"label": "unknown"} for r in rows()]) is None
    assert judge([r | {"key": "gone"} for r in rows()]) is None


def test_one_class_alone_is_not_called_shuffled() -> None:
    threes = [{"key": str(i), "label": "3"} for i, (label, _) in enumerate(digits()) if label == "3"]
    assert judge(threes) is None


def test_the_sample_is_repeatable() -> None:
    assert judge(rows(900), "d-1") == judge(rows(900), "d-1")


def test_it_is_the_textbook_kappa() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        first, second = generator.integers(0, 4, (2, 100))
        assert kappa(first, second, 4) == pytest.approx(cohen_kappa_score(first, second))
