"""What a picture is like, in numbers. Small pictures are measured many at once, at a fifth of the time.

Every number is a function of its picture alone, whatever it is measured together with.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.imaging import perceptual_hash

_STRIP: Final = 1_000_000  # pixels measured at once, so that memory follows the picture and not a multiple of it
_LEVELS: Final = np.arange(256) / 255
_DIGITS: Final = 6  # kept, so that it does not show in which order sums were made

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Measurements of a decoded image, of the kind drift is looked for in.

    Brightness and contrast are mean and deviation of the grey image in 0..1, sharpness the variance
    of its Laplacian, entropy that of its histogram in bits (0..8); `grey` says that all colour
    channels are equal; `fingerprint` is the SHA-256 of the decoded pixels, the same for
    every lossless encoding of the same picture; `phash_high` and `phash_low` are the halves of its
    perceptual hash.
    """

    width: int
    height: int
    format: str
    mode: str
    grey: bool
    brightness: float
    contrast: float
    sharpness: float
    entropy: float
    fingerprint: str
    phash_high: int
    phash_low: int


@dataclass(frozen=True)
class DecodedImage:
    """What is kept of a decoded picture until it is measured: its grey levels, and the small one that is hashed."""

    format: str
    mode: str
    grey: bool
    fingerprint: str
    levels: Pixels
    small: Pixels


def sight(image: Image.Image, kind: str, mode: str) -> DecodedImage:
    """Of a picture in mode ``RGB``; `kind` and `mode` are those of its file."""
    array = np.asarray(image)
    grey = image.convert("L")
    levels = np.asarray(grey)
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    digest.update(array.data)
    small = (
        levels if grey.size == (perceptual_hash.SIDE, perceptual_hash.SIDE) else np.asarray(perceptual_hash.small(grey))
    )
    return DecodedImage(kind, mode, _is_grey(array), digest.hexdigest(), levels, small)


def measure(sights: Sequence[DecodedImage]) -> list[Features]:
    """Features of each, in order."""
    found: dict[int, Features] = {}
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, one in enumerate(sights):
        by_shape.setdefault(one.levels.shape, []).append(i)
    for numbers in by_shape.values():
        found.update(zip(numbers, _measured([sights[i] for i in numbers]), strict=True))
    return [found[i] for i in range(len(sights))]


def _measured(alike: Sequence[DecodedImage]) -> Iterator[Features]:
    """Of pictures of one size."""
    stack = np.stack([one.levels for one in alike]) if len(alike) > 1 else alike[0].levels[None]
    hashes = perceptual_hash.phashes(np.stack([one.small for one in alike]))
    numbers = [n.round(_DIGITS).tolist() for n in (*_of_histogram(stack), _sharpness(stack))]
    height, width = alike[0].levels.shape
    for one, (high, low), mean, deviation, entropy, sharpness in zip(alike, hashes.tolist(), *numbers, strict=True):
        yield Features(
            width=width,
            height=height,
            format=one.format,
            mode=one.mode,
            grey=one.grey,
            brightness=mean,
            contrast=deviation,
            sharpness=sharpness,
            entropy=entropy,
            fingerprint=one.fingerprint,
            phash_high=high,
            phash_low=low,
        )


def _is_grey(array: Pixels) -> bool:
    red, green, blue = array[..., 0], array[..., 1], array[..., 2]
    if not red[0, 0] == green[0, 0] == blue[0, 0]:
        return False  # most colour pictures need no further look
    return bool((red == green).all() and (green == blue).all())


def _of_histogram(stack: Pixels) -> tuple[Numbers, Numbers, Numbers]:
    """Mean and deviation in 0..1, entropy in bits, of ``uint8[n, height, width]``."""
    n = len(stack)
    flat, counts = stack.reshape(n, -1), np.zeros(n * 256, np.int64)
    shift, step = 256 * np.arange(n, dtype=np.int32)[:, None], max(1, _STRIP // n)
    for start in range(0, flat.shape[1], step):
        counts += np.bincount((flat[:, start : start + step] + shift).ravel(), minlength=n * 256)
    share = counts.reshape(n, 256) / flat.shape[1]
    mean = share @ _LEVELS
    deviation = np.sqrt((share @ _LEVELS**2 - mean**2).clip(0))
    entropy = -(share * np.log2(share, out=np.zeros_like(share), where=share > 0)).sum(1) + 0.0
    return mean, deviation, entropy


def _sharpness(stack: Pixels) -> Numbers:
    """Variance of the Laplacian of ``uint8[n, height, width]`` whose edges are continued, levels as 0..1."""
    n, height, width = stack.shape
    step = max(1, _STRIP // (n * width))
    total, squares = np.zeros(n), np.zeros(n)
    for start in range(0, height, step):
        above = min(start, 1)
        strip = stack[:, start - above : start + step + 1].astype(np.int16)
        laplacian = np.zeros_like(strip)
        down, right = strip[:, 1:] - strip[:, :-1], strip[:, :, 1:] - strip[:, :, :-1]
        laplacian[:, :-1] += down
        laplacian[:, 1:] -= down
        laplacian[:, :, :-1] += right
        laplacian[:, :, 1:] -= right
        values = laplacian[:, above : above + step].reshape(n, -1).astype(np.float64)
        total += values.sum(1)
        squares += np.einsum("ij,ij->i", values, values)
    pixels = height * width
    variance: Numbers = (squares / pixels - (total / pixels) ** 2) / 255**2
    return variance.clip(0)
