"""Signatures by which copies of an image are found: mirrored, turned, cropped, shifted, with other colours.

A signature describes the middle of an image (80 % of each side), which every crop by at most 10 % still shows. It has
63 bits, each the sign of a linear projection of a thumbnail's lowest frequencies, the most reliable bit first. The
projections are those that vary most between images for what they vary between copies (linear discriminant analysis,
Fisher 1936; as binary codes: Strecha, Bronstein, Bronstein, Fua 2012, "LDAHash"); `copy_projection.npz` has them.
Before, the image is turned and mirrored so that it is brighter on the right than on the left, brighter at the bottom
than at the top, and differs more from left to right: all eight turns and mirror images have one signature.

An image is looked for by the signatures that a copy of it may have: of each window that may be the middle of the
copy, in each orientation that may be the right one, with the least certain bits flipped (query-directed probing:
Lv, Josephson, Wang, Charikar, Li 2007, "Multi-Probe LSH"). A probe is a prefix of a signature, so that one sorted
index serves stores of any size: the more samples, the longer the prefix.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

SIDE: Final = 16
"""Side of a thumbnail in pixels."""

BITS: Final = 63
"""Bits of a signature, which is never negative in 64 bits."""

MIDDLE: Final = (0.1, 0.8)  # start and length of the described part of each side

Thumbnails = NDArray[np.uint8]
Floats = NDArray[np.float64]

_FREQUENCIES: Final = 8
_SAMPLES: Final = 48  # along each side of a window
_DIGITS: Final = 6  # projections are rounded, so that no bit depends on the order of summation
_PROJECTION: Final = Path(__file__).with_name("copy_projection.npz")

_DETAIL: Final = 2.0  # least deviation of the grey levels of the middle; nearly blank images have no signature
_STEP: Final = 0.03  # distance of neighbouring windows, as a share of the side
_CROP: Final = 0.1  # largest crop of a side
_SHIFT: Final = 0.02  # largest shift of a large image
_SHIFT_PIXELS: Final = 2  # and of a small one
_MOVED: Final = 4.0  # cost of a window that is not the middle: most copies are not moved
_ORIENTATION: Final = (0.04, 0.05)  # noise of a slope, and of the difference of two, as shares of the norm
_FLIPPED: Final = 8  # bits of a prefix that are tried flipped
_UNLIKELY: Final = 9.0  # probes of a higher cost are not made


@dataclass(frozen=True)
class Probes:
    """Prefixes of signatures to look up, row by row.

    Attributes:
        image: position of the image that each is for, ``int64[n]``, ascending.
        prefix: the upper bits of the signature, ``int64[n]``.
        row: position of the described view in `views`, ``int64[n]``.
        views: what was looked at.
    """

    image: NDArray[np.int64]
    prefix: NDArray[np.int64]
    row: NDArray[np.int64]
    views: "Views"


@dataclass(frozen=True)
class Views:
    """Views of images: a window each, in one of eight orientations.

    Attributes:
        image: position of the image, ``int64[n]``.
        window: start and length in x, start and length in y, as shares of the side, ``float64[n, 4]``.
        orientation: 0 to 7: bit 0 mirrors x, bit 1 mirrors y, bit 2 swaps the two axes before, ``int64[n]``.
        cost: how unlikely the view is, ``float64[n]``.
        projections: in units of their deviation between copies, ``float64[n, BITS]``.
        signature: ``int64[n]``.
    """

    image: NDArray[np.int64]
    window: Floats
    orientation: NDArray[np.int64]
    cost: Floats
    projections: Floats
    signature: NDArray[np.int64]


def shrink(thumbnails: NDArray[np.uint8]) -> Thumbnails:
    """Thumbnails ``uint8[n, SIDE, SIDE]`` of those of the perceptual hash, which are twice as large."""
    sums = thumbnails.reshape(-1, SIDE, 2, SIDE, 2).sum(axis=(2, 4), dtype=np.uint16)
    small: Thumbnails = ((sums + 2) >> 2).astype(np.uint8)
    return small


def signatures(thumbnails: Thumbnails) -> NDArray[np.int64]:
    """The signature of each thumbnail ``uint8[n, SIDE, SIDE]``; -1: it is nearly blank and resembles nothing."""
    coefficients = _coefficients(thumbnails, (MIDDLE,), (MIDDLE,))[:, 0, 0]
    orientation = _upright(coefficients)
    found = _signature(_project(_turned(coefficients, orientation)))
    return np.where(has_detail(thumbnails), found, -1)


def orientations(thumbnails: Thumbnails) -> NDArray[np.int64]:
    """How each thumbnail is turned for its signature, as in `Views.orientation`."""
    return _upright(_coefficients(thumbnails, (MIDDLE,), (MIDDLE,))[:, 0, 0])


def has_detail(thumbnails: Thumbnails) -> NDArray[np.bool_]:
    """Mask of the thumbnails that are not nearly blank."""
    edge = round(MIDDLE[0] * SIDE)
    middle = thumbnails[:, edge : SIDE - edge, edge : SIDE - edge].astype(np.float64)
    enough: NDArray[np.bool_] = middle.std(axis=(1, 2)).round(_DIGITS) >= _DETAIL
    return enough


def probes(thumbnails: Thumbnails, smaller_sides: NDArray[np.int64], bits: int, most: int) -> Probes:
    """The most likely prefixes of the signatures of copies of each image.

    Args:
        thumbnails: ``uint8[n, SIDE, SIDE]``, none of them nearly blank.
        smaller_sides: of the images in pixels, ``int64[n]``: two pixels are a larger share of a small image.
        bits: length of a prefix.
        most: the largest number of prefixes of an image.
    """
    small = smaller_sides * _SHIFT < _SHIFT_PIXELS * 0.75
    parts = [(np.flatnonzero(mask), shift) for mask, shift in ((small, 0.07), (~small, _SHIFT)) if mask.any()]
    chosen = [_views(thumbnails[numbers], numbers, _windows(shift)) for numbers, shift in parts]
    views = Views(*(np.concatenate([getattr(part, name) for part in chosen]) for name in Views.__dataclass_fields__))
    return _most_likely(views, bits, most)


def view(thumbnails: Thumbnails, orientation: NDArray[np.int64]) -> Thumbnails:
    """Each thumbnail turned and mirrored as `Views.orientation` says."""
    turned = np.where((orientation & 4 > 0)[:, None, None], thumbnails.swapaxes(1, 2), thumbnails)
    turned = np.where((orientation & 1 > 0)[:, None, None], turned[:, :, ::-1], turned)
    turned = np.where((orientation & 2 > 0)[:, None, None], turned[:, ::-1], turned)
    return turned.astype(np.uint8, copy=False)


def sampling(start: Floats, length: Floats, samples: int, side: int = SIDE) -> Floats:
    """Matrices ``float64[..., samples, side]`` that sample a window of a side linearly; edges are continued."""
    at = (start[..., None] + length[..., None] * (np.arange(samples) + 0.5) / samples) * side - 0.5
    distance = abs(at.clip(0, side - 1)[..., None] - np.arange(side))
    return (1 - distance).clip(0)


def _upright(coefficients: Floats) -> NDArray[np.int64]:
    x, y = coefficients[:, 0, 1], coefficients[:, 1, 0]
    return np.where(abs(y) > abs(x), 4 | (y < 0) | (x < 0) * 2, (x < 0) | (y < 0) * 2)


@cache
def _windows(shift: float) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Windows of a side, by length: where the middle of an original or of a copy can be in the other."""
    start, length = MIDDLE
    kept = 1 - _CROP
    half = 1 - _CROP / 2
    ranges = (
        (length, start - shift, start + shift),
        (length / kept, (start - _CROP) / kept, start / kept),  # the image is a crop
        (length / half, (start - _CROP / 2) / half, start / half),
        (length * kept, start * kept, start * kept + _CROP),  # the other one is
        (length * half, start * half, start * half + _CROP / 2),
    )
    return tuple(
        tuple((float(at), size) for at in np.linspace(low, high, 1 + 2 * round((high - low) / _STEP / 2)))
        for size, low, high in ranges
    )


@cache
def _waves(windows: tuple[tuple[float, float], ...]) -> Floats:
    """Cosines over each window, faded out at its ends, without a constant part: ``float64[W * 8, SIDE]``."""
    at = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    fade = np.sin(np.pi * at)
    waves = fade * np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * at)
    waves[1:] -= waves[1:].sum(axis=1, keepdims=True) / fade.sum() * fade
    starts, lengths = np.asarray(windows).T
    return (waves @ sampling(starts, lengths, _SAMPLES)).reshape(-1, SIDE)


def _coefficients(
    thumbnails: Thumbnails, across: tuple[tuple[float, float], ...], down: tuple[tuple[float, float], ...]
) -> Floats:
    """Frequencies of every pair of windows: ``float64[n, down, across, 8, 8]``."""
    found = _waves(down) @ thumbnails.astype(np.float64) @ _waves(across).T
    return found.reshape(-1, len(down), _FREQUENCIES, len(across), _FREQUENCIES).transpose(0, 1, 3, 2, 4)


def _turned(coefficients: Floats, orientation: NDArray[np.int64]) -> Floats:
    """Frequencies ``float64[n, 8, 8]`` of the turned images: mirroring changes the sign of every odd one."""
    sign = (-1.0) ** np.arange(_FREQUENCIES)
    turned = np.where((orientation & 4 > 0)[:, None, None], coefficients.swapaxes(1, 2), coefficients)
    turned = turned * np.where((orientation & 1 > 0)[:, None], sign, 1.0)[:, None, :]
    return turned * np.where((orientation & 2 > 0)[:, None], sign, 1.0)[:, :, None]


@cache
def _projection() -> tuple[Floats, Floats]:
    with np.load(_PROJECTION) as stored:
        return stored["scale"] * stored["weights"], stored["offset"]


def _project(coefficients: Floats) -> Floats:
    """``float64[n, 8, 8]`` → ``float64[n, BITS]``, independent of the contrast."""
    weights, offset = _projection()
    flat = coefficients.reshape(len(coefficients), -1)[:, 1:]
    norm = np.sqrt((flat * flat).sum(axis=1, keepdims=True)) + 1e-9
    projections: Floats = (flat / norm @ weights - offset).round(_DIGITS)
    return projections


def _signature(projections: Floats) -> NDArray[np.int64]:
    powers = 1 << np.arange(BITS - 1, -1, -1, dtype=np.int64)
    signature: NDArray[np.int64] = ((projections > 0) * powers).sum(axis=1)
    return signature


def _views(
    thumbnails: Thumbnails, numbers: NDArray[np.int64], windows: tuple[tuple[tuple[float, float], ...], ...]
) -> Views:
    parts = [_views_of_size(thumbnails, numbers, of_size) for of_size in windows]
    return Views(*(np.concatenate([getattr(part, name) for part in parts]) for name in Views.__dataclass_fields__))


def _views_of_size(
    thumbnails: Thumbnails, numbers: NDArray[np.int64], windows: tuple[tuple[float, float], ...]
) -> Views:
    found = _coefficients(thumbnails, windows, windows)
    norm = np.sqrt((found * found).sum(axis=(3, 4)) - found[..., 0, 0] ** 2) + 1e-9
    x, y = found[..., 0, 1] / norm, found[..., 1, 0] / norm
    costs = np.stack([_orientation_cost(x, y, orientation) for orientation in range(8)], axis=-1)
    starts = np.array([start for start, _ in windows])
    moved = (starts != MIDDLE[0]) | (windows[0][1] != MIDDLE[1])
    costs += _MOVED * (moved[:, None] | moved[None, :])[None, :, :, None]
    image, row, column, orientation = np.nonzero(costs < _UNLIKELY)
    length = np.full(len(image), windows[0][1])
    projections = _project(_turned(found[image, row, column], orientation))
    return Views(
        numbers[image],
        np.stack([starts[column], length, starts[row], length], axis=1),
        orientation,
        costs[image, row, column, orientation],
        projections,
        _signature(projections),
    )


def _orientation_cost(x: Floats, y: Floats, orientation: int) -> Floats:
    """How unlikely it is that a copy with the slopes `x` and `y` was turned so for its signature."""
    if orientation & 4:
        x, y = y, x
    x, y = (-x if orientation & 1 else x), (-y if orientation & 2 else y)
    slope, difference = _ORIENTATION
    excess = np.maximum(0, abs(y) - abs(x)) / difference
    cost: Floats = excess**2 + (np.maximum(0, -x) / slope) ** 2 + (np.maximum(0, -y) / slope) ** 2
    return cost


@cache
def _patterns() -> Floats:
    """Which of the least certain bits are flipped together: ``float64[patterns, _FLIPPED]``; at most two."""
    all_bits = (np.arange(1 << _FLIPPED)[:, None] >> np.arange(_FLIPPED)) & 1
    patterns: Floats = all_bits[all_bits.sum(axis=1) <= 2].astype(np.float64)
    return patterns


def _most_likely(views: Views, bits: int, most: int) -> Probes:
    certainty = views.projections[:, :bits] ** 2
    least = np.argpartition(certainty, _FLIPPED, axis=1)[:, :_FLIPPED]
    patterns = _patterns()
    cost = views.cost[:, None] + np.take_along_axis(certainty, least, axis=1) @ patterns.T
    row, pattern = np.nonzero(cost < _UNLIKELY)
    order = np.lexsort((cost[row, pattern], views.image[row]))
    row, pattern = row[order], pattern[order]
    image = views.image[row]
    rank = np.arange(len(image)) - np.searchsorted(image, image)
    row, pattern, image = row[rank < most], pattern[rank < most], image[rank < most]
    flipped = (patterns[pattern].astype(np.int64) << (bits - 1 - least[row])).sum(axis=1)
    return Probes(image, (views.signature[row] >> (BITS - bits)) ^ flipped, row, views)
