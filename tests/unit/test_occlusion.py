"""Where the model looked, on models that are known to look at one place."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.imaging.images import Pixels
from ml.models import occlusion


def looks_at_the_corner(images: Pixels) -> NDArray[np.float32]:
    """Class 1 is as likely as the upper left quarter is bright."""
    side = images.shape[1] // 4
    bright = images[:, :side, :side].mean(axis=(1, 2, 3)) / 256
    return np.stack([1 - bright, bright], axis=1).astype(np.float32)


def test_the_place_that_speaks_for_the_label_is_found() -> None:
    pixels = np.zeros((48, 48, 3), np.uint8)
    pixels[:12, :12] = 250
    heat = occlusion.sensitivity(looks_at_the_corner, pixels, 1)
    assert heat.shape == (occlusion.GRID, occlusion.GRID)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert max(row, column) <= 2
    assert heat[4:, 4:].max() == 0
    # Covering the corner speaks for the other label, so nothing speaks against it there.
    assert occlusion.sensitivity(looks_at_the_corner, pixels, 0)[:2, :2].max() == 0


def test_inputs_smaller_than_the_grid_and_flat_ones_are_fine() -> None:
    pixels = np.full((8, 8, 1), 200, np.uint8)
    assert occlusion.sensitivity(looks_at_the_corner, pixels, 1).max() == 0
    data = occlusion.overlay(Image.new("L", (30, 10), 200), np.zeros((12, 12), np.float32))
    assert Image.open(io.BytesIO(data)).size == (448, 448)


def test_the_picture_is_red_where_it_matters() -> None:
    heat = np.zeros((12, 12), np.float32)
    heat[0, 0] = 3
    shown = np.asarray(Image.open(io.BytesIO(occlusion.overlay(Image.new("RGB", (64, 64), (90, 90, 90)), heat))))
    assert shown[5, 5, 0] > shown[5, 5, 2] + 60
    assert abs(int(shown[400, 400, 0]) - int(shown[400, 400, 2])) < 3
