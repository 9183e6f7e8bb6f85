"""Perceptual hash: pictures that look alike have hashes that differ in few bits."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE: Final = 32  # pixels of the square that is hashed
_LOW: Final = 8


def _dct_rows() -> NDArray[np.float32]:
    """The lowest frequencies of an orthonormal DCT-II, without the constant one: ``float32[8, 32]``."""
    n, k = np.arange(SIDE), np.arange(1, _LOW + 1)[:, None]
    return (math.sqrt(2 / SIDE) * np.cos(math.pi * (2 * n + 1) * k / (2 * SIDE))).astype(np.float32)


_DCT: Final = _dct_rows()


def small(grey: Image.Image) -> Image.Image:
    """The grey image at the size that is hashed."""
    return grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)


def phashes(pictures: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Of each picture ``uint8[n, SIDE, SIDE]`` the upper and lower half of its hash, ``int32[n, 2]``.

    The signs of its lowest frequencies: the DCT hash of Zauner 2010 ("Implementation and
    Benchmarking of Perceptual Image Hash Functions"), but for its threshold: with the median, bits can
    only change in pairs, so that one frequency near the threshold costs two bits.
    """
    signs = _DCT @ pictures.astype(np.float32) @ _DCT.T > 0
    return np.packbits(signs.reshape(-1, _LOW * _LOW), axis=1).view(">i4").astype(np.int32)


def phash(grey: Image.Image) -> int:
    """The 64 bits of one grey image, as an unsigned number."""
    high, low = (int(half) & 0xFFFFFFFF for half in phashes(np.asarray(small(grey))[None])[0])
    return high << 32 | low
