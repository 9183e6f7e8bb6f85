"""The corruptions do what their names say, at any size and with any channels."""

import numpy as np
import pytest

from ml.gate import corruptions
from ml.imaging.images import Pixels


def made(size: int = 32, channels: int = 3) -> Pixels:
    """Smooth pictures with an edge."""
    x = np.linspace(40, 200, size)
    one = np.where(np.arange(size)[:, None] < size // 2, x, 255 - x)
    return np.repeat(np.repeat(one[None, ..., None], channels, -1), 3, 0).astype(np.uint8)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3), (33, 1), (96, 3)])
def test_each_keeps_shape_and_type_and_changes_the_images_the_same_way_each_time(size: int, channels: int) -> None:
    images = made(size, channels)
    first, second = dict(corruptions.corrupted(images, 1)), dict(corruptions.corrupted(images, 1))
    assert list(first) == ["noise", "blur", "dim", "jpeg"]
    for name, corrupted in first.items():
        assert (corrupted.shape, corrupted.dtype) == (images.shape, np.uint8)
        assert not np.array_equal(corrupted, images), name
        assert np.array_equal(corrupted, second[name]), name


def test_noise_has_the_stated_deviation() -> None:
    grey = np.full((20, 32, 32, 1), 128, np.uint8)
    assert (corruptions.noise(grey, 0) - 128.0).std() == pytest.approx(0.08 * 255, rel=0.05)
    assert not np.array_equal(corruptions.noise(grey, 0), corruptions.noise(grey, 1))


def test_blur_softens_an_edge_and_keeps_the_light() -> None:
    images = made()
    blurred = corruptions.blur(images)
    assert np.abs(np.diff(blurred.astype(int), axis=1)).max() < np.abs(np.diff(images.astype(int), axis=1)).max()
    assert blurred.mean() == pytest.approx(images.mean(), abs=1)


def test_dim_halves_light_and_contrast() -> None:
    images = made()
    dimmed = corruptions.dim(images)
    assert dimmed.mean() == pytest.approx(images.mean() / 2, abs=1)
    assert dimmed.std() == pytest.approx(images.std() / 4, rel=0.05)


def test_jpeg_is_coarse_and_still_the_picture() -> None:
    images = made()
    error = np.abs(corruptions.jpeg(images).astype(int) - images)
    assert 0 < error.mean() < 15
