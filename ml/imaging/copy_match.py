"""Decides whether two thumbnails show the same image, by laying one over the other.

A signature only says that two images may be copies. Here the window that it named is moved and stretched until the
two agree best (Lucas and Kanade 1981, with gain and offset left out of the comparison), and the agreement of what is
left of both, edges more than areas, decides. Most images are copies of nothing, which shows before anything is fitted.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.imaging import copy_signature
from ml.imaging.copy_signature import MIDDLE, Floats, Thumbnails

_SAMPLES: Final = 13  # along each side of the middle, as many as it has pixels
_STEPS: Final = 2  # later ones change nothing
_FARTHEST: Final = 0.06  # how far a window may be moved, as a share of the side
_FLAT: Final = 1e-6
_HOPEFUL: Final = 0.5  # agreement of edges before fitting: an image none of whose candidates has it is no copy,
_FITTED: Final = 0.3  # and candidates of other images that have not even this are not fitted


def agreement(
    stored: Thumbnails,
    shown: Thumbnails,
    windows: Floats,
    orientations: NDArray[np.int64],
    images: NDArray[np.int64],
) -> Floats:
    """How well each stored image agrees with a view of another: ``float64[n, 2]``, each -1 to 1.

    The first figure is the correlation of the grey levels, the second that of their edges.

    Args:
        stored: ``uint8[n, SIDE, SIDE]``.
        shown: the thumbnails of the other images, ``uint8[n, SIDE, SIDE]``.
        windows: `Views.window` of the others, where the middle of the stored image may be.
        orientations: `Views.orientation` of the others.
        images: numbers of the others: all pairs of one image, ``int64[n]``.
    """
    count = len(stored)
    upright = copy_signature.view(stored, copy_signature.orientations(stored)).astype(np.float64)
    turned = copy_signature.view(shown, orientations).astype(np.float64)
    middle = copy_signature.sampling(np.array(MIDDLE[0]), np.array(MIDDLE[1]), _SAMPLES)
    target = _normalised(middle @ upright @ middle.T)
    edges = _edges(target)
    first = _turned_windows(windows, orientations)
    place = first.copy()
    best = np.full((count, 2), -1.0)
    fitted = np.arange(count)
    for step in range(_STEPS + 1):
        image = _normalised(_sample(turned[fitted], place[fitted]))
        grey = (image * target[fitted]).sum(axis=(1, 2))
        found = np.stack([grey, (_edges(image) * edges[fitted]).sum(axis=(1, 2))], axis=1)
        better = found.sum(axis=1) > best[fitted].sum(axis=1)
        best[fitted[better]] = found[better]
        if step == 0:
            chosen = np.isin(images, images[best[:, 1] >= _HOPEFUL]) & (best[:, 1] >= _FITTED)
            fitted, image = fitted[chosen], image[chosen]
        if step == _STEPS or not len(fitted):
            break
        moved = place[fitted] + _correction(image, target[fitted]) - first[fitted]
        place[fitted] = first[fitted] + moved.clip(-_FARTHEST, _FARTHEST)
    return best


def _turned_windows(windows: Floats, orientations: NDArray[np.int64]) -> Floats:
    swapped = np.where((orientations & 4 > 0)[:, None], windows[:, [2, 3, 0, 1]], windows)
    for bit, axis in ((1, 0), (2, 2)):
        mirrored = 1 - swapped[:, axis] - swapped[:, axis + 1]
        swapped[:, axis] = np.where(orientations & bit > 0, mirrored, swapped[:, axis])
    return swapped


def _sample(images: Floats, place: Floats) -> Floats:
    across = copy_signature.sampling(place[:, 0], place[:, 1], _SAMPLES)
    down = copy_signature.sampling(place[:, 2], place[:, 3], _SAMPLES)
    return down @ images @ across.swapaxes(1, 2)


def _normalised(images: Floats) -> Floats:
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    normalised: Floats = centred / (np.sqrt((centred * centred).sum(axis=(1, 2), keepdims=True)) + _FLAT)
    return normalised


def _edges(images: Floats) -> Floats:
    """What differs from the surroundings of three by three samples, normalised."""
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    around = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9
    return _normalised(images[:, 1:-1, 1:-1] - around)


def _correction(image: Floats, target: Floats) -> Floats:
    """The change of start and length in x and y that brings `image` closest to `target`: ``float64[n, 4]``."""
    at = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    down, across = _slope(image), _slope(image.swapaxes(1, 2)).swapaxes(1, 2)
    rows = np.stack([across, across * at, down, down * at[:, None], image, target], axis=1).reshape(len(image), 6, -1)
    products = rows @ rows.swapaxes(1, 2)
    # How each place changes the normalised image: without what only changes its mean or its contrast.
    sums, contrast = rows[:, :4].sum(axis=2), products[:, :4, 4]
    normal = products[:, :4, :4] - sums[:, :, None] * sums[:, None, :] / _SAMPLES**2
    normal -= contrast[:, :, None] * contrast[:, None, :]
    normal += (_FLAT + 0.02 * np.trace(normal, axis1=1, axis2=2) / 4)[:, None, None] * np.eye(4)
    wanted = products[:, :4, 5] - contrast * products[:, 4, 5, None]
    change: Floats = np.linalg.solve(normal, wanted[:, :, None])[..., 0]
    return change * MIDDLE[1]


def _slope(images: Floats) -> Floats:
    """Change along the first axis of each image, for the whole length of it."""
    slope = np.empty_like(images)
    slope[:, 1:-1] = (images[:, 2:] - images[:, :-2]) * (_SAMPLES / 2)
    slope[:, 0] = (images[:, 1] - images[:, 0]) * _SAMPLES
    slope[:, -1] = (images[:, -1] - images[:, -2]) * _SAMPLES
    return slope
