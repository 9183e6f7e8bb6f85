"""Signatures by which copies of an image are found: mirrored, turned, cropped, shifted, with other colours.

A signature describes the middle of an image (80 % of each side), which every crop by at most 10 % still shows. It has
63 bits, each the sign of a linear projection of a thumbnail's lowest frequencies, the most reliable bit first. The
projections are those that vary most between images for what they vary between copies (linear discriminant analysis,
Fisher 1936; as binary codes: Strecha, Bronstein, Bronstein, Fua 2012, "LDAHash"); `copy_projection.npz` has them,
`tests/bench/parts/copy_projection.py` fits them.
Before, the image is turned and mirrored so that it is brighter on the right than on the left, brighter at the bottom
than at the top, and differs more from left to right: all eight turns and mirror images have one signature.

An image is looked for by the signatures that a copy of it may have: of each window that may be the middle of the
copy, in each orientation that may be the right one, with the least certain bits flipped (query-directed probing:
Lv, Josephson, Wang, Charikar, Li 2007, "Multi-Probe LSH"). A probe is a prefix of a signature, so that one sorted
index serves stores of any size: the more samples, the longer the prefix.
"""

from collections.abc import Sequence
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

SAMPLES: Final = 48
"""Along each side of a window."""

STEP: Final = 0.03
"""Distance of neighbouring windows, as a share of the side."""

_FREQUENCIES: Final = 8
_DIGITS: Final = 6  # projections are rounded, so that no bit depends on the order of summation
_PROJECTION: Final = Path(__file__).with_name("copy_projection.npz")

_DETAIL: Final = 2.0  # least deviation of the grey levels of the middle; nearly blank images have no signature
_CROP: Final = 0.1  # largest crop of a side
_SHIFT: Final = 0.02  # largest shift of a large image
_SHIFT_PIXELS: Final = 2  # and of a small one
_MOVED: Final = 4.0  # cost of a window that is not the middle: most copies are not moved
_ORIENTATION: Final = (0.04, 0.05)  # noise of a slope, and of the difference of two, as shares of the norm
_FLIPPED: Final = 8  # bits of a prefix that are tried flipped
_UNLIKELY: Final = 9.0  # probes of a higher cost are not made
_LEVELS: Final = 64  # of the costs, to find the cheapest without sorting all
_VIEWS_A_PREFIX: Final = 2  # probes looked at for each prefix that is looked up


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
    """Views of images, in their order: a window each, in one of eight orientations.

    Attributes:
        image: position of the image, ``int64[n]``, ascending.
        window: start and length in x, start and length in y, as shares of the side, ``float64[n, 4]``.
        orientation: 0 to 7: bit 0 mirrors x, bit 1 mirrors y, bit 2 swaps the two axes before, ``int64[n]``.
        signature: ``int64[n]``.
    """

    image: NDArray[np.int64]
    window: Floats
    orientation: NDArray[np.int64]
    signature: NDArray[np.int64]


@dataclass(frozen=True)
class _PossibleViews:
    """As `Views`, of all that may be: `cost` is how unlikely a view is, `frequencies` are its, ``float64[n, 64]``."""

    image: NDArray[np.int64]
    window: Floats
    orientation: NDArray[np.int64]
    cost: Floats
    frequencies: Floats


def shrink(thumbnails: NDArray[np.uint8]) -> Thumbnails:
    """Thumbnails ``uint8[n, SIDE, SIDE]`` of those of the perceptual hash, which are twice as large."""
    sums = thumbnails.reshape(-1, SIDE, 2, SIDE, 2).sum(axis=(2, 4), dtype=np.uint16)
    small: Thumbnails = ((sums + 2) >> 2).astype(np.uint8)
    return small


def signatures(thumbnails: Thumbnails) -> NDArray[np.int64]:
    """The signature of each thumbnail ``uint8[n, SIDE, SIDE]``; -1: it is nearly blank and resembles nothing."""
    coefficients = _coefficients(thumbnails, (MIDDLE,), (MIDDLE,))[:, 0, 0]
    orientation = _upright(coefficients)
    found = _signature(_project(_normalised(coefficients), orientation, BITS))
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
    chosen = [
        _views_of_size(thumbnails[numbers], numbers, windows) for numbers, shift in parts for windows in _windows(shift)
    ]
    return _most_likely(_concatenated(chosen), bits, most)


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
        tuple((float(at), size) for at in np.linspace(low, high, 1 + 2 * round((high - low) / STEP / 2)))
        for size, low, high in ranges
    )


@cache
def waves() -> Floats:
    """Cosines over a window, faded out at its ends, all but the first without a constant part: ``float64[8, 48]``."""
    at = (np.arange(SAMPLES) + 0.5) / SAMPLES
    fade = np.sin(np.pi * at)
    faded: Floats = fade * np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * at)
    faded[1:] -= faded[1:].sum(axis=1, keepdims=True) / fade.sum() * fade
    return faded


@cache
def _waves_in(windows: tuple[tuple[float, float], ...]) -> Floats:
    """`waves` over each window of a thumbnail: ``float64[W * 8, SIDE]``."""
    starts, lengths = np.asarray(windows).T
    return (waves() @ sampling(starts, lengths, SAMPLES)).reshape(-1, SIDE)


def _coefficients(
    thumbnails: Thumbnails, across: tuple[tuple[float, float], ...], down: tuple[tuple[float, float], ...]
) -> Floats:
    """Frequencies of every pair of windows: ``float64[n, down, across, 8, 8]``."""
    found = _waves_in(down) @ thumbnails.astype(np.float64) @ _waves_in(across).T
    return found.reshape(-1, len(down), _FREQUENCIES, len(across), _FREQUENCIES).transpose(0, 1, 3, 2, 4)


@cache
def _projection() -> tuple[Floats, Floats]:
    """Weights ``float64[8, 64, BITS]`` for an image in each orientation, and what is taken off.

    Turning an image swaps its frequencies, mirroring it changes the sign of every odd one: the weights can as well be
    turned back, once.
    """
    with np.load(_PROJECTION) as stored:
        weights, offset = stored["scale"] * stored["weights"], stored["offset"]
    upright = np.concatenate([np.zeros((1, BITS)), weights]).reshape(_FREQUENCIES, _FREQUENCIES, BITS)
    sign = (-1.0) ** np.arange(_FREQUENCIES)
    turned = []
    for orientation in range(8):
        back = upright * sign[:, None] if orientation & 1 else upright
        back = back * sign[:, None, None] if orientation & 2 else back
        turned.append((back.swapaxes(0, 1) if orientation & 4 else back).reshape(-1, BITS))
    return np.stack(turned), offset


def _normalised(coefficients: Floats) -> Floats:
    """``float64[..., 8, 8]`` → ``float64[..., 64]``, independent of the contrast."""
    flat = coefficients.reshape(*coefficients.shape[:-2], -1)
    varying = flat[..., 1:]
    normalised: Floats = flat / (np.sqrt((varying * varying).sum(axis=-1, keepdims=True)) + 1e-9)
    return normalised


def _project(frequencies: Floats, orientation: NDArray[np.int64], bits: int) -> Floats:
    """``float64[n, 64]`` → the first projections ``float64[n, bits]`` of the turned images."""
    weights, offset = _projection()
    projections = np.empty((len(frequencies), bits))
    for number in range(8):
        chosen = np.flatnonzero(orientation == number)
        projections[chosen] = frequencies[chosen] @ weights[number, :, :bits]
    rounded: Floats = (projections - offset[:bits]).round(_DIGITS)
    return rounded


def _signature(projections: Floats) -> NDArray[np.int64]:
    """The signs as one number, the first the highest bit."""
    bits = projections.shape[1]
    padded = np.zeros((len(projections), 64), np.bool_)
    padded[:, 64 - bits :] = projections > 0
    signature: NDArray[np.int64] = np.packbits(padded, axis=1).view(">i8").ravel().astype(np.int64)
    return signature


def _concatenated(parts: Sequence[_PossibleViews]) -> _PossibleViews:
    names = _PossibleViews.__dataclass_fields__
    return _PossibleViews(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _views_of_size(
    thumbnails: Thumbnails, numbers: NDArray[np.int64], windows: tuple[tuple[float, float], ...]
) -> _PossibleViews:
    found = _normalised(_coefficients(thumbnails, windows, windows))
    x, y = found[..., 1], found[..., _FREQUENCIES]
    costs = np.stack([_orientation_cost(x, y, orientation) for orientation in range(8)], axis=-1)
    starts = np.array([start for start, _ in windows])
    moved = (starts != MIDDLE[0]) | (windows[0][1] != MIDDLE[1])
    costs += _MOVED * (moved[:, None] | moved[None, :])[None, :, :, None]
    image, row, column, orientation = np.nonzero(costs < _UNLIKELY)
    length = np.full(len(image), windows[0][1])
    return _PossibleViews(
        numbers[image],
        np.stack([starts[column], length, starts[row], length], axis=1),
        orientation,
        costs[image, row, column, orientation],
        found[image, row, column],
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


def _most_likely(views: _PossibleViews, bits: int, most: int) -> Probes:
    projections = _project(views.frequencies, views.orientation, bits)
    certainty = projections * projections
    least = np.argpartition(certainty, _FLIPPED, axis=1)[:, :_FLIPPED]
    patterns = _patterns()
    cost = views.cost[:, None] + np.take_along_axis(certainty, least, axis=1) @ patterns.T
    row, pattern = _cheapest(cost, views.image, _VIEWS_A_PREFIX * most)
    flipped = (patterns[pattern].astype(np.int64) << (bits - 1 - least[row])).sum(axis=1)
    prefix = _signature(projections)[row] ^ flipped
    # Many views have the same prefix: it is looked up once, for the most likely of them.
    _, first = np.unique(views.image[row] << bits | prefix, return_index=True)
    first.sort()
    image = views.image[row[first]]
    first = first[np.arange(len(image)) - np.searchsorted(image, image) < most]
    row = row[first]
    views_by_image = views.image[row] * len(views.image) + row
    used, row = np.unique(views_by_image, return_inverse=True)
    used %= len(views.image)
    signature = _signature(_project(views.frequencies[used], views.orientation[used], BITS))
    chosen = Views(views.image[used], views.window[used], views.orientation[used], signature)
    return Probes(chosen.image[row], prefix[first], row, chosen)


def _cheapest(cost: Floats, image: NDArray[np.int64], most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions in `cost` of about the `most` cheapest of each image, by image and then by cost.

    Args:
        cost: ``float64[views, patterns]``.
        image: of each view, ``int64[views]``.
    """
    row, pattern = np.nonzero(cost < _UNLIKELY)
    of_entry, costs = image[row], cost[row, pattern]
    level = (costs * (_LEVELS / _UNLIKELY)).astype(np.int64)  # whole levels are kept, so few are sorted
    counts = np.bincount(of_entry * _LEVELS + level, minlength=(int(image.max(initial=0)) + 1) * _LEVELS)
    below = counts.reshape(-1, _LEVELS).cumsum(axis=1) - counts.reshape(-1, _LEVELS)
    kept = below.ravel()[of_entry * _LEVELS + level] < most
    row, pattern, of_entry, costs = row[kept], pattern[kept], of_entry[kept], costs[kept]
    order = np.argsort(of_entry * (2 * _UNLIKELY) + costs.round(_DIGITS), kind="stable")
    return row[order], pattern[order]
