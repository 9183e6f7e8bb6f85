"""Features are kept by hash, and losing them costs time only."""

from pathlib import Path

import numpy as np
import pytest

from ml.label_checks import feature_cache
from ml.label_checks.feature_cache import FeatureCache


def test_each_image_is_described_once(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "deep" / "features.sqlite")
    asked: list[list[int]] = []

    def describe(positions: list[int]) -> "np.ndarray":
        asked.append(positions)
        return np.asarray([[i / 3] for i in positions], np.float32)

    first = cache.described(["a", "b"], describe)
    second = cache.described(["b", "c", "a"], describe)
    assert asked == [[0, 1], [1]]
    np.testing.assert_array_equal(second[[2, 0]], first)


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "features.sqlite"
    path.write_bytes(b"this is no database at all, but long enough to be taken for one" * 40)
    cache = FeatureCache(path)
    cache.write({"a": np.ones(3, np.float32)})
    assert list(cache.read(["a", "b"])) == ["a"]


def test_it_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "MOST", 5)
    cache = FeatureCache(tmp_path / "features.sqlite")
    for i in range(20):
        cache.write({str(i): np.zeros(2, np.float32)})
    assert sorted(cache.read([str(i) for i in range(20)]), key=int) == [str(i) for i in range(15, 20)]
