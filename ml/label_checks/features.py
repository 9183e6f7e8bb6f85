"""Features of small images that need no training: oriented filters, pooled over a grid, and colour.

The first layer that networks learn is a bank of oriented filters, and such filters on whitened patches with rectified,
pooled answers are a strong representation for few labels (Coates, Lee and Ng 2011). Here they are Gabor and
centre-surround filters from formulas, so that features of years ago can be compared with today's.
"""

import itertools
from collections.abc import Iterable
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.context import Context
from ml.errors import ImageRejectedError
from ml.imaging import images as decoding
from ml.imaging.images import Limits, Pixels

Floats = NDArray[np.float32]

SIDE: Final = 32
_PATCH: Final = 6
_STRIDE: Final = 2
_ORIENTATIONS: Final = 8
_FREQUENCIES: Final = (0.12, 0.24)  # cycles a pixel
_CELLS: Final = 3
_COLOUR_CELLS: Final = 4
_CUT_OFF: Final = 5.0  # frequency, in half cycles a patch, from which on whitening is damped
_LEAST_VARIANCE: Final = 1e-3
_GREY: Final = np.asarray([0.299, 0.587, 0.114], np.float32)
_BATCH: Final = 64


def describe(images: Pixels) -> Floats:
    """Features ``float32[N, D]`` of ``uint8[N, 32, 32, 3]``; those of an image depend on it alone."""
    parts = [_describe(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    return np.concatenate(parts) if parts else np.zeros((0, size()), np.float32)


def decode(ctx: Context, encoded: Iterable[bytes]) -> Pixels:
    """``uint8[N, 32, 32, 3]``, black where an image cannot be decoded any more: its place must stay."""
    limits = Limits(ctx.settings.max_image_bytes, ctx.settings.max_image_pixels)
    decoded = [_decode(data, limits) for data in encoded]
    return np.stack(decoded) if decoded else np.zeros((0, SIDE, SIDE, 3), np.uint8)


@cache
def size() -> int:
    """The number D of features."""
    return int(_describe(np.zeros((1, SIDE, SIDE, 3), np.uint8)).shape[1])


def _decode(data: bytes, limits: Limits) -> Pixels:
    try:
        return decoding.decode(data, SIDE, 3, limits)
    except ImageRejectedError:
        return np.zeros((SIDE, SIDE, 3), np.uint8)


def _describe(images: Pixels) -> Floats:
    pixels: Floats = images.astype(np.float32) / np.float32(255)
    grey = pixels @ _GREY
    return np.concatenate([_edges(grey), _colours(pixels, grey)], 1)


def _edges(grey: Floats) -> Floats:
    """Strength of each filter in each cell, after contrast normalisation: ``float32[N, cells² · filters]``."""
    count = len(grey)
    windows = np.lib.stride_tricks.sliding_window_view(grey, (_PATCH, _PATCH), axis=(1, 2))[:, ::_STRIDE, ::_STRIDE]
    places = windows.shape[1]
    patches = np.ascontiguousarray(windows).reshape(-1, _PATCH**2)
    variance = np.einsum("ij,ij->i", patches, patches) / _PATCH**2 - patches.mean(1) ** 2
    answers = np.abs(patches @ _filters())
    answers /= np.sqrt(np.maximum(variance, 0) + np.float32(_LEAST_VARIANCE))[:, None]
    answers = answers.reshape(count, places, places, -1)
    edges = [round(i * places / _CELLS) for i in range(_CELLS + 1)]
    rows = [answers[:, a:b].sum(1) for a, b in itertools.pairwise(edges)]
    cells = [
        row[:, a:b].sum(1) / ((d - c) * (b - a))
        for row, c, d in zip(rows, edges[:-1], edges[1:], strict=True)
        for a, b in itertools.pairwise(edges)
    ]
    result: Floats = np.sqrt(np.concatenate(cells, 1))
    return result


def _colours(pixels: Floats, grey: Floats) -> Floats:
    """Mean and deviation of brightness and of two colour differences in each cell."""
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    planes = np.stack([grey, red - green, blue - (red + green) / 2], -1)
    side = SIDE // _COLOUR_CELLS
    cells = planes.reshape(len(grey), _COLOUR_CELLS, side, _COLOUR_CELLS, side, 3)
    deviation = np.sqrt(cells.var((2, 4)) + np.float32(1e-4))
    return np.concatenate([cells.mean((2, 4)).reshape(len(grey), -1), deviation.reshape(len(grey), -1)], 1)


@cache
def _filters() -> Floats:
    """Unit filters ``float32[patch², F]``, with whitening for the 1/f spectrum of natural images."""
    whitening = _whitening()
    filters = np.stack([*_gabors(), *_spots()])
    filters -= filters.mean(1, keepdims=True)
    filters /= np.linalg.norm(filters, axis=1, keepdims=True)
    whitened = whitening @ filters.T
    result: Floats = (whitened / np.linalg.norm(whitened, axis=0)).astype(np.float32)
    return result


def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    centred = np.arange(_PATCH) - (_PATCH - 1) / 2
    rows, columns = np.meshgrid(centred, centred, indexing="ij")
    return rows, columns


def _gabors() -> list[NDArray[np.float64]]:
    rows, columns = _grid()
    envelope = np.exp(-(rows**2 + columns**2) / 8)
    return [
        (np.cos(2 * np.pi * frequency * (columns * np.cos(angle) + rows * np.sin(angle)) + phase) * envelope).ravel()
        for frequency in _FREQUENCIES
        for angle in np.pi * np.arange(_ORIENTATIONS) / _ORIENTATIONS
        for phase in (0, np.pi / 2)
    ]


def _spots() -> list[NDArray[np.float64]]:
    """Bright centres on a dark surround, at nine places."""
    rows, columns = _grid()
    distances = [(rows - y) ** 2 + (columns - x) ** 2 for y in (-1.5, 0, 1.5) for x in (-1.5, 0, 1.5)]
    return [(np.exp(-d / 1.28) - np.exp(-d / 5.12) / 4).ravel() for d in distances]


def _whitening() -> NDArray[np.float64]:
    """Patches to whitened ones ``[patch², patch²]``: the cosine transform, weighted by frequency."""
    orders, places = np.arange(_PATCH)[:, None], np.arange(_PATCH)[None]
    cosines = np.cos(np.pi * orders * (2 * places + 1) / (2 * _PATCH)) * np.sqrt(2 / _PATCH)
    cosines[0] /= np.sqrt(2)
    basis = np.kron(cosines, cosines)
    rows, columns = np.meshgrid(np.arange(_PATCH), np.arange(_PATCH), indexing="ij")
    frequencies = np.hypot(rows, columns).ravel()
    weights = frequencies / np.sqrt(1 + (frequencies / _CUT_OFF) ** 4)
    result: NDArray[np.float64] = basis.T @ np.diag(weights) @ basis
    return result
