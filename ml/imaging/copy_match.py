"""Decides whether two thumbnails show the same image, by laying one over the other.

A signature only says that two images may be copies. Here the window that it named is moved and stretched until the
two agree best (Lucas and Kanade 1981, with gain and offset left out of the comparison), and the agreement of what is
left of both, edges more than areas, decides.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.imaging import copy_signature
from ml.imaging.copy_signature import MIDDLE, SIDE, Floats, Thumbnails

_PER_PIXEL: Final = 13 / 16  # samples a pixel along each side of the middle
_STEPS: Final = 4
_FARTHEST: Final = 0.06  # how far a window may be moved, as a share of the side
_FLAT: Final = 1e-6


def agreement(stored: Thumbnails, shown: Thumbnails, windows: Floats, orientations: NDArray[np.int64]) -> Floats:
    """How well each stored image agrees with a view of another: ``float64[n, 2]``, each -1 to 1.

    The first figure is the correlation of the grey levels, the second that of their edges.

    Args:
        stored: ``uint8[n, SIDE, SIDE]``.
        shown: the thumbnails of the other images, ``uint8[n, SIDE, SIDE]``.
        windows: `Views.window` of the others, where the middle of the stored image may be.
        orientations: `Views.orientation` of the others.
    """
    small = copy_signature.shrink(stored) if stored.shape[1] == 2 * SIDE else stored
    upright = copy_signature.view(stored, copy_signature.orientations(small)).astype(np.float64)
    turned = copy_signature.view(shown, orientations).astype(np.float64)
    count, side = stored.shape[:2]
    samples = round(_PER_PIXEL * side)
    middle = copy_signature.sampling(np.full(count, MIDDLE[0]), np.full(count, MIDDLE[1]), samples, side)
    target = _normalised(middle @ upright @ middle.swapaxes(1, 2))
    first = _turned_windows(windows, orientations)
    place = first.copy()
    best = np.full((count, 2), -1.0)
    for step in range(_STEPS + 1):
        sampled = _sample(turned, place, samples)
        image = _normalised(sampled)
        found = np.stack([(image * target).sum(axis=(1, 2)), _edge_correlation(image, target)], axis=1)
        best = np.where((found.sum(axis=1) > best.sum(axis=1))[:, None], found, best)
        if step < _STEPS:
            place = first + (place + _correction(image, target) - first).clip(-_FARTHEST, _FARTHEST)
    return best


def _turned_windows(windows: Floats, orientations: NDArray[np.int64]) -> Floats:
    swapped = np.where((orientations & 4 > 0)[:, None], windows[:, [2, 3, 0, 1]], windows)
    for bit, axis in ((1, 0), (2, 2)):
        mirrored = 1 - swapped[:, axis] - swapped[:, axis + 1]
        swapped[:, axis] = np.where(orientations & bit > 0, mirrored, swapped[:, axis])
    return swapped


def _sample(images: Floats, place: Floats, samples: int) -> Floats:
    across = copy_signature.sampling(place[:, 0], place[:, 1], samples, images.shape[1])
    down = copy_signature.sampling(place[:, 2], place[:, 3], samples, images.shape[1])
    return down @ images @ across.swapaxes(1, 2)


def _normalised(images: Floats) -> Floats:
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    normalised: Floats = centred / (np.sqrt((centred * centred).sum(axis=(1, 2), keepdims=True)) + _FLAT)
    return normalised


def _edge_correlation(image: Floats, target: Floats) -> Floats:
    one, other = _edges(image), _edges(target)
    correlation: Floats = (one * other).sum(axis=(1, 2))
    return correlation


def _edges(images: Floats) -> Floats:
    """What differs from the surroundings of three by three samples, normalised."""
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    around = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9
    return _normalised(images[:, 1:-1, 1:-1] - around)


def _correction(image: Floats, target: Floats) -> Floats:
    """The change of start and length in x and y that brings `image` closest to `target`: ``float64[n, 4]``."""
    samples = image.shape[1]
    at = (np.arange(samples) + 0.5) / samples
    down, across = np.gradient(image, 1 / samples, axis=(1, 2))
    slopes = np.stack([across, across * at, down, down * at[:, None]], axis=1).reshape(len(image), 4, -1)
    # How each place changes the normalised image: without what only changes its mean or its contrast.
    slopes -= slopes.mean(axis=2, keepdims=True)
    flat, wanted = image.reshape(len(image), -1), (target - image).reshape(len(image), -1)
    slopes -= (slopes @ flat[:, :, None]) * flat[:, None, :]
    normal = slopes @ slopes.swapaxes(1, 2)
    normal += (_FLAT + 0.02 * np.trace(normal, axis1=1, axis2=2) / 4)[:, None, None] * np.eye(4)
    change: Floats = np.linalg.solve(normal, slopes @ wanted[:, :, None])[..., 0]
    return change * MIDDLE[1]
