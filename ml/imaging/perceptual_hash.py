"""Perceptual hash: similar-looking images have hashes that differ in few bits."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE: Final = 32  # side of the hashed thumbnail in pixels
_FREQUENCIES: Final = 8


def _dct_rows() -> NDArray[np.float32]:
    """The lowest frequencies of an orthonormal DCT-II, without the constant one: ``float32[8, 32]``."""
    n, k = np.arange(SIDE), np.arange(1, _FREQUENCIES + 1)[:, None]
    return (math.sqrt(2 / SIDE) * np.cos(math.pi * (2 * n + 1) * k / (2 * SIDE))).astype(np.float32)


_DCT: Final = _dct_rows()


def downscale(grey: Image.Image) -> Image.Image:
    """The grey image at the size of the hashed thumbnail."""
    return grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)


def phashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The upper and lower half of the hash of each thumbnail ``uint8[n, SIDE, SIDE]``, as ``int32[n, 2]``.

    The bits are the signs of the lowest frequencies: the DCT hash of Zauner 2010 ("Implementation and
    Benchmarking of Perceptual Image Hash Functions") with a threshold of 0: with the median, bits can
    only change in pairs, so that one frequency near the threshold costs two bits.
    """
    signs = _DCT @ thumbnails.astype(np.float32) @ _DCT.T > 0
    return np.packbits(signs.reshape(-1, _FREQUENCIES * _FREQUENCIES), axis=1).view(">i4").astype(np.int32)


def phash(grey: Image.Image) -> int:
    """The 64-bit hash of one grey image, as an unsigned integer."""
    high, low = (int(half) & 0xFFFFFFFF for half in phashes(np.asarray(downscale(grey))[None])[0])
    return high << 32 | low
