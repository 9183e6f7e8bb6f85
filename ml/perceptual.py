"""Perceptual hash: pictures that look alike have hashes that differ in few bits."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE: Final = 32
_LOW: Final = 8


def _dct_rows() -> NDArray[np.float32]:
    """The lowest frequencies of an orthonormal DCT-II, without the constant one: ``float32[8, 32]``."""
    n, k = np.arange(_SIDE), np.arange(1, _LOW + 1)[:, None]
    return (math.sqrt(2 / _SIDE) * np.cos(math.pi * (2 * n + 1) * k / (2 * _SIDE))).astype(np.float32)


_DCT: Final = _dct_rows()


def phash(grey: Image.Image) -> int:
    """64 bits, as an unsigned number: the signs of a grey image's lowest frequencies.

    The DCT hash of Zauner 2010 ("Implementation and Benchmarking of Perceptual Image Hash
    Functions"), but for its threshold: with the median, bits can only change in pairs, so that one
    frequency near the threshold costs two bits.
    """
    if grey.size != (_SIDE, _SIDE):
        grey = grey.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    small = np.asarray(grey, np.float32)
    return int.from_bytes(np.packbits(_DCT @ small @ _DCT.T > 0).tobytes(), "big")


def halves(value: int) -> tuple[int, int]:
    """A `phash` as two signed 32-bit numbers, high and low, as Postgres keeps them."""
    high, low = value >> 32, value & 0xFFFFFFFF
    return high - (high >> 31 << 32), low - (low >> 31 << 32)
