"""Distances on features whose spread is known."""

import numpy as np
import pytest

from ml.errors import IntegrityError
from ml.models.ood import OODDetector

CLASSES, SIZE = 4, 48


def features(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four classes around directions of their own, wide along some of them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    centres = np.eye(CLASSES, SIZE) * 5
    spread = np.concatenate([np.full(6, 0.8), np.full(SIZE - 6, 0.1)])
    vectors = centres[labels] + rng.normal(0, 1, (count, SIZE)) * spread
    return vectors.astype(np.float32), labels


@pytest.fixture(scope="module")
def known() -> OODDetector:
    seen, labels = features(800, 1)
    detector = OODDetector.fit(seen, labels, features(400, 2)[0])
    assert detector is not None
    return detector


def test_one_in_a_hundred_of_what_is_alike_is_far_and_what_is_not_alike_is_farther(known: OODDetector) -> None:
    alike = known.distances(features(4000, 3)[0])
    assert 0.002 < (alike > 1).mean() < 0.03
    # As long and as wide, but along directions in which classes hardly differ.
    strange = np.roll(features(500, 4)[0], SIZE // 2, axis=1)
    assert known.distances(strange).min() > 1.5


def test_distances_are_mahalanobis(known: OODDetector) -> None:
    seen = features(5, 5)[0]
    unit = seen / np.linalg.norm(seen, axis=1, keepdims=True)
    inverse = np.eye(SIZE) / known.rest
    for direction, variance in zip(known.directions, known.variances, strict=True):
        inverse += np.outer(direction, direction) * (1 / variance - 1 / known.rest)
    off = unit[:, np.newaxis] - known.means
    expected = np.sqrt(np.einsum("ncd,de,nce->nc", off, inverse, off).min(axis=1)) / known.scale
    assert known.distances(seen) == pytest.approx(expected, rel=1e-3)


def test_it_is_read_as_it_was_written_and_damage_is_refused(known: OODDetector) -> None:
    data, seen = known.write(), features(9, 6)[0]
    assert np.array_equal(OODDetector.read(data).distances(seen), known.distances(seen))
    broken = OODDetector(known.means, known.directions[:, :-1], known.variances, known.rest).write()
    empty = OODDetector(known.means * np.nan, known.directions, known.variances, known.rest).write()
    for bad in (b"", data[:200], broken, empty):
        with pytest.raises(IntegrityError):
            OODDetector.read(bad)


def test_too_few_images_tell_nothing() -> None:
    seen, labels = features(7, 7)
    assert OODDetector.fit(seen, labels, seen) is None or len(np.unique(labels)) * 2 <= 7
    assert OODDetector.fit(seen, np.arange(7), seen) is None
